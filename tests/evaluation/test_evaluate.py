import jax
import numpy as np
import optax
import pytest

from flaxres.data import load_dataset
from flaxres.errors import CheckpointError, ConfigError
from flaxres.evaluation.evaluate import evaluate_ensemble, evaluate_run
from flaxres.inference.trained_model import load_trained_model
from flaxres.models import create_model
from flaxres.run.checkpoint import Checkpoints
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.test_main import SMALL, fails


@pytest.mark.parametrize("batch_size", [128, 512, 96, 7, 1])
def test_every_image_counts_once_at_any_batch_size(config, batch_size):
    config.eval_batch_size = batch_size
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state = compiled_steps.initial_state()
    test = compiled_steps.put(dataset.test)
    sums = compiled_steps.evaluate(state, test)
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


def test_options_that_replicas_do_not_support(tmp_path, config):
    """Each option is named with what was given; no run needs to exist for that."""
    config.num_replicas = 3
    for options, message in (
        ({"by_class": True}, "--by_class needs"),
        ({"test_crops": "center"}, "--test_crops=center needs"),
        ({"batch_stats": "population"}, "--batch_stats=population needs"),
        ({"by_class": True, "test_crops": "10-crop"}, "--test_crops=10-crop and --by_class need"),
    ):
        with pytest.raises(ConfigError) as caught:
            evaluate_run(config, tmp_path, **options)
        assert str(caught.value) == (
            f"{message} a run of one model, got a run of 3 models in one program "
            "(num_replicas=3); evaluate it without, or train each seed as a run of its own"
        )


def probabilities(directory):
    """Returns the run's class probabilities of all test images, in one batch, and their labels."""
    trained = load_trained_model(directory)
    dataset = load_dataset(trained.config.dataset)
    split = dataset.test
    images = split.images.astype(np.float32) / 255 - dataset.mean_image()
    logits = trained.model.apply(trained.variables, images, train=False)
    return np.asarray(jax.nn.softmax(logits), np.float64), split.labels


def averages(p, labels):
    """Returns loss, top-1 error, top-5 error and number of images."""
    order = np.argsort(-p, axis=1)
    label_probabilities = p[np.arange(len(p)), labels]
    return {
        "test_loss": pytest.approx(-np.log(label_probabilities).mean(), rel=1e-4),
        "test_error": pytest.approx(100 * np.mean(order[:, 0] != labels)),
        "test_top5_error": pytest.approx(100 * np.mean((order[:, :5] != labels[:, None]).all(1))),
        "test_images": len(p),
    }


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """Returns the directory of another model's run, with another seed, on the same data."""
    config = small_config()
    config.seed, config.model.name, config.model.shortcut = 1, "plain", "none"
    config.num_steps, config.boundaries = 10, (5,)
    workdir = tmp_path_factory.mktemp("other") / "run"
    train_and_evaluate(config, workdir)
    return workdir


def test_ensembles(digits_run, other_run, config):
    """A run with itself gives that run; two runs, in any order, give their mean probabilities."""
    (one, labels), (other, _) = probabilities(digits_run), probabilities(other_run)
    single = evaluate_run(None, digits_run, splits=["test"])
    assert single == {"step": 20} | averages(one, labels)
    same_twice = evaluate_ensemble(None, None, [digits_run, digits_run], splits=["test"])
    assert same_twice == {"models": 2} | averages(one, labels)
    assert same_twice["test_loss"] == pytest.approx(single["test_loss"], rel=1e-6)
    both = {"models": 2} | averages((one + other) / 2, labels)
    assert evaluate_ensemble(config, digits_run, [other_run], splits=["test"]) == both
    assert evaluate_ensemble(None, other_run, [digits_run], splits=["test"]) == both


def test_center_crop_of_the_image_size_equals_the_split(digits_run):
    """Holds with running and with population statistics."""
    for batch_stats in ("running", "population"):
        options = {"splits": ["test"], "batch_stats": batch_stats, "log": lambda _: None}
        split = evaluate_run(None, digits_run, **options)
        center = evaluate_run(None, digits_run, test_crops="center", short_side=8, **options)
        assert center == pytest.approx(split)


def test_options_that_do_not_fit(tmp_path, digits_run):
    lines = []
    for options, message in (
        ({"test_crops": "10-crop", "short_side": 4}, "short_side must be at least 8"),
        ({"test_crops": "all"}, "test_crops must be one of"),
        ({"splits": ["tests"]}, "splits must be any of train, validation, test, got 'tests'"),
        ({"splits": ["validation"]}, "dataset.validation_split is None"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_run(None, digits_run, log=lines.append, **options)
    with pytest.raises(CheckpointError, match="nowhere does not exist; check --workdir"):
        evaluate_ensemble(None, digits_run, [tmp_path / "nowhere"])
    assert lines == []


def test_a_workdir_without_a_run(tmp_path, config):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        evaluate_run(config, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def evaluate_with_training_set_statistics(config, workdir):
    """Returns test loss and error, with batch statistics of one batch of all training images."""
    dataset = load_dataset(config.dataset)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(CompiledSteps(config, dataset).state_shape, print)
    fields = config.model.copy_and_resolve_references()
    fields.norm_momentum = 0.0
    model = create_model(fields, 10)
    train, test = (
        split.images.astype(np.float32) / 255 - dataset.mean_image()
        for split in (dataset.train, dataset.test)
    )
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    _, updated = apply(state.variables, train, train=True, mutable=("batch_stats",))
    logits = apply({"params": state.params, **updated}, test, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.test.labels)
    wrong = np.argmax(logits, axis=1) != dataset.test.labels
    return float(losses.mean()), 100 * float(wrong.mean())


def test_population_statistics(tmp_path, config, python):
    """With all training images in one batch, the result is known, also on the command line."""
    config.batch_size = 1437
    config.num_steps, config.boundaries = 3, (1, 2)
    last = train_and_evaluate(config, tmp_path)
    loss, error = evaluate_with_training_set_statistics(config, tmp_path)
    record = evaluate_run(config, tmp_path, batch_stats="population")
    assert record["step"] == 3
    assert record["test_error"] == pytest.approx(error)
    assert record["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert abs(record["test_loss"] - last["test_loss"]) > 0.01  # running statistics lag behind
    assert {"train_error", "train_loss"} < set(record)

    overrides = [f"--config.{field}={config[field]}" for field in ("batch_size", "num_steps")]
    overrides += ["--config.boundaries=(1,2)", "--config.model.widths=(4,8,8)"]
    overrides += ["--config.log_every=4", "--config.eval_every=10", "--config.num_devices=1"]
    done = python(
        *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8", *overrides),
        *(f"--workdir={tmp_path}", "--mode=eval", "--batch_stats=population"),
    )
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(": ") for line in done.stdout.splitlines())
    assert float(printed["test_error"]) == pytest.approx(error, abs=1e-3)
    assert float(printed["test_loss"]) == pytest.approx(loss, rel=1e-4)


def test_models_without_population_statistics(tmp_path, config):
    with pytest.raises(ConfigError, match="batch_stats must be running or population, got 'batch'"):
        evaluate_run(config, tmp_path, batch_stats="batch")
    config.model.norm = "layer"
    with pytest.raises(ConfigError, match=r"model\.norm batch or instance-running, got 'layer'"):
        evaluate_run(config, tmp_path, batch_stats="population")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "applies to --mode=eval, predict or export, got --mode=train"),
        (("--mode=summary",), "applies to --mode=eval, predict or export, got --mode=summary"),
        (("--mode=eval", "--config.model.norm=group"), "got 'group' in plain-8"),
    ],
)
def test_population_statistics_on_the_command_line_fail(python, tmp_path, arguments, message):
    flags = (*SMALL, *arguments, "--batch_stats=population", f"--workdir={tmp_path / 'run'}")
    fails(python("-m", "flaxres.main", *flags), 2, message)
    assert not (tmp_path / "run").exists()
