import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import CheckpointError
from flaxres.evaluate import evaluate_run
from flaxres.models import create_model
from flaxres.programs import Programs
from flaxres.train import train_and_evaluate


@pytest.mark.parametrize("batch_size", [128, 512, 96, 7, 1])
def test_every_image_counts_once_at_any_batch_size(config, batch_size):
    config.eval_batch_size = batch_size
    dataset = load_dataset(config.dataset)
    programs = Programs(config, dataset)
    state = programs.initial_state()
    test = programs.put(dataset.test)
    sums = programs.evaluate(state, test)
    images = dataset.test.images.astype(np.float32) / 255 - dataset.mean_image()
    logits = create_model(config.model, 10).apply(state.variables, images, train=False)
    assert sums.count == 360
    assert sums.wrong == (np.argmax(logits, axis=1) != dataset.test.labels).sum()


def test_evaluating_a_run(tmp_path, config):
    last = train_and_evaluate(config, tmp_path)
    record = evaluate_run(config, tmp_path)
    assert record["step"] == 20
    assert record["test_error"] == pytest.approx(last["test_error"])
    assert record["test_loss"] == pytest.approx(last["test_loss"])
    assert record["train_error"] * 1437 / 100 == pytest.approx(
        round(record["train_error"] * 1437 / 100)
    )


def test_no_run_to_evaluate(tmp_path, config):
    with pytest.raises(CheckpointError, match="holds no run"):
        evaluate_run(config, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
