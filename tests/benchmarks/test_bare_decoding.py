import numpy as np
import pytest

from benchmarks import bare_decoding
from flaxres.data.crops import Cropper
from flaxres.data.sampler import EpochSampler
from flaxres.data.source import ArraySource
from flaxres.data.stream_schedule import DecodeTask
from flaxres.data.task_decoder import Decoder


def test_all_images_of_the_tasks_are_decoded(monkeypatch):
    tasks = [DecodeTask("train", True, np.arange(size)) for size in (3, 3, 2)]
    with pytest.raises(RuntimeError, match="set_decoder has not been called"):
        bare_decoding.decode(tasks)
    source = ArraySource("set", np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8, np.int32))
    decoder = Decoder(
        {"train": source}, EpochSampler(8, 4, 0), Cropper(size=0), (4, 4, 3), 1, False
    )
    monkeypatch.setattr(bare_decoding, "_decoder", decoder)
    assert bare_decoding.decode(tasks) == 8
