import dataclasses

import numpy as np
import pytest

from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError
from flaxres.data.decode_workers import DecodeStream
from flaxres.data.folder import open_folder
from flaxres.data.sampler import EpochSampler
from flaxres.data.shared_memory import DecodedImages
from flaxres.data.source import ArraySource
from flaxres.data.stream_schedule import DecodeTask
from flaxres.data.task_decoder import Decoder
from flaxres.errors import DatasetError
from tests.data.jpegs import write_folder
from tests.data.test_decode_workers import BATCH, STEPS, make_decoder, make_schedule, read


def decode_epoch(decoder):
    """Decodes 45 training images."""
    decoder(DecodeTask("train", True, np.arange(45)), DecodedImages.empty(45, decoder.image_shape))


def test_a_broken_image_is_an_error_or_replaced_by_the_next(tmp_path):
    folder = write_folder(tmp_path, sides=(14, 30))
    whole = read(DecodeStream(make_schedule(), make_decoder(folder), 0, 3))
    broken = [open_folder(folder, "train", "test").train.describe(i) for i in (7, 30)]
    broken_in_test = open_folder(folder, "train", "test").test.describe(3)
    for name in (*broken, broken_in_test):
        with open(name, "r+b") as file:
            file.truncate(200)
    with pytest.raises(BrokenImageError) as caught:
        read(DecodeStream(make_schedule(), make_decoder(folder), 0, 3))
    assert any(name in str(caught.value) for name in broken)
    replaced = read(DecodeStream(make_schedule(), make_decoder(folder, skip=True), 0, 3))

    tasks = [make_schedule()[i] for i in range(len(make_schedule()))]
    # The intact training images by position.
    sampler = EpochSampler(45, BATCH, seed=3)
    intact = {}
    for task, decoded in zip(tasks, whole, strict=True):
        if task.training:
            for number, *example in zip(task.numbers, decoded.images, decoded.labels, strict=True):
                intact[int(number)] = example
    num_replaced = 0
    for task, decoded, before in zip(tasks, replaced, whole, strict=True):
        if not task.training:
            expected = before.valid & (task.numbers != 3)
            np.testing.assert_array_equal(decoded.valid, expected)
            assert list(decoded.counts) == [int(3 in task.numbers), 0]
            continue
        assert decoded.valid.all()
        skipped = 0
        for i, position in enumerate(map(int, task.numbers)):
            readable = position
            while int(sampler.images(readable, readable + 1)[0]) in (7, 30):
                readable += 1
            skipped += readable - position
            image, label = intact[readable]
            np.testing.assert_array_equal(decoded.images[i], image)
            assert decoded.labels[i] == label
        assert list(decoded.counts) == [skipped, 0]
        num_replaced += skipped
    assert num_replaced == 2 * STEPS * BATCH // 45  # two images in each of eight epochs


def test_images_of_another_size_are_an_error(tmp_path):
    decoder = make_decoder(write_folder(tmp_path, sides=(14, 30)), crop="pad", size=0)
    with pytest.raises(DatasetError, match=r"pixels, but the first image has 14 x 14; choose"):
        decode_epoch(dataclasses.replace(decoder, image_shape=(14, 14, 3)))


def test_unknown_labels_are_an_error():
    source = ArraySource("set", np.zeros((45, 4, 4, 3), np.uint8), np.full(45, 9, np.int32))
    sampler, cropper = EpochSampler(45, BATCH, 0), Cropper(size=0)
    decoder = Decoder({"train": source}, sampler, cropper, (4, 4, 3), 3, False)
    with pytest.raises(DatasetError, match="of set has the label 9; there are 3 classes"):
        decode_epoch(decoder)
