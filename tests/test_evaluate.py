import jax
import numpy as np
import optax
import pytest

from flaxres.checkpoint import Checkpoints
from flaxres.data import load_dataset
from flaxres.errors import CheckpointError, ConfigError
from flaxres.evaluate import evaluate_run
from flaxres.models import create_model
from flaxres.programs import Programs
from flaxres.train import train_and_evaluate
from tests.test_main import SMALL, fails


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


def with_statistics_of_all_images(config, workdir):
    """Test loss and error, the training split being the batch whose statistics are taken."""
    dataset = load_dataset(config.dataset)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(Programs(config, dataset).state_shape, print)
    fields = config.model.copy_and_resolve_references()
    fields.norm_momentum = 0.0
    net = create_model(fields, 10)
    train, test = (
        split.images.astype(np.float32) / 255 - dataset.mean_image()
        for split in (dataset.train, dataset.test)
    )
    apply = jax.jit(net.apply, static_argnames=("train", "mutable"))
    _, own = apply(state.variables, train, train=True, mutable=("batch_stats",))
    logits = apply({"params": state.params, **own}, test, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.test.labels)
    wrong = np.argmax(logits, axis=1) != dataset.test.labels
    return float(losses.mean()), 100 * float(wrong.mean())


def test_population_statistics(tmp_path, config, python):
    """With the whole split as the batch there is one right answer, here and on the command line."""
    config.batch_size = 1437
    config.num_steps, config.boundaries = 3, (1, 2)
    last = train_and_evaluate(config, tmp_path)
    loss, error = with_statistics_of_all_images(config, tmp_path)
    record = evaluate_run(config, tmp_path, batch_stats="population")
    assert record["step"] == 3
    assert record["test_error"] == pytest.approx(error)
    assert record["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert abs(record["test_loss"] - last["test_loss"]) > 0.01  # the running ones are too young
    assert {"train_error", "train_loss"} < set(record)

    overrides = [f"--config.{field}={config[field]}" for field in ("batch_size", "num_steps")]
    overrides += ["--config.boundaries=(1,2)", "--config.model.widths=(4,8,8)"]
    overrides += ["--config.log_every=4", "--config.eval_every=10", "--config.num_devices=1"]
    done = python(
        *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8", *overrides),
        *(f"--workdir={tmp_path}", "--mode=eval", "--batch_stats=population"),
    )
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(": ") for line in done.stdout.splitlines())
    assert float(shown["test_error"]) == pytest.approx(error, abs=1e-3)
    assert float(shown["test_loss"]) == pytest.approx(loss, rel=1e-4)


def test_statistics_that_are_not_there(tmp_path, config):
    with pytest.raises(ConfigError, match="batch_stats must be running or population, got 'batch'"):
        evaluate_run(config, tmp_path, batch_stats="batch")
    config.model.norm = "layer"
    with pytest.raises(ConfigError, match=r"model\.norm batch or instance-running, got 'layer'"):
        evaluate_run(config, tmp_path, batch_stats="population")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "is for --mode=eval, got --mode=train"),
        (("--mode=summary",), "is for --mode=eval, got --mode=summary"),
        (("--mode=eval", "--config.model.norm=group"), "got 'group' in plain-8"),
    ],
)
def test_population_statistics_where_they_cannot_be(python, tmp_path, arguments, part):
    flags = (*SMALL, *arguments, "--batch_stats=population", f"--workdir={tmp_path / 'run'}")
    fails(python("-m", "flaxres.main", *flags), 2, part)
    assert not (tmp_path / "run").exists()
