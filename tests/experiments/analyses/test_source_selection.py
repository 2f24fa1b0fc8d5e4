"""Models of analyses: weights files by themselves and next to the runs of a workdir."""

import shutil

import jax
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, DataChangedError, DatasetError, WeightsError
from flaxres.experiments.analyses.base import Evaluation, TrainedRun
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.analyses.source_selection import load_weights, select_sources
from flaxres.inference.pretrained import save_weights
from flaxres.inference.trained_model import load_trained_model
from flaxres.pretrained.sources import SHIPPED
from flaxres.pretrained.weights_file import Weights, read_weights, write_weights
from flaxres.run.input_spec import InputSpec
from flaxres.run.records import read_metrics
from tests.conftest import small_config, write_tfds


@pytest.fixture(scope="module")
def weights_file(digits_run, tmp_path_factory):
    """The weights file of the small experiment."""
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_weights(load_trained_model(digits_run), path)
    return path


def write_copy(source, path, **changes):
    """Writes a weights file with other fields of `Weights`."""
    path.parent.mkdir(exist_ok=True)
    weights = read_weights(source)
    fields = {name: getattr(weights, name) for name in ("config", "step", "variables")}
    fields |= {"input_spec": weights.input_spec, "errors": weights.errors}
    write_weights(path, Weights(**fields | changes))
    return str(path)


def test_a_weights_file_is_the_model_of_its_run(digits_run, weights_file):
    (source,) = load_weights([str(weights_file)])
    assert (source.name, source.variant, source.directory) == ("resnet-8", "resnet-8", None)
    assert str(source) == str(weights_file)
    trained, expected = source.load(), RunSource(digits_run).load()
    assert (trained.step, trained.name) == (20, "resnet-8")
    jax.tree.map(np.testing.assert_array_equal, trained.variables, expected.variables)
    logged = read_metrics(digits_run)[-1]
    error = Evaluation(trained, trained.dataset.test)(trained.variables)["error"]
    assert error == pytest.approx(logged["test_error"], abs=1e-3)
    metrics = source.read_metrics()
    assert (metrics.step, metrics.finished) == (20, True)
    for name in ("train_error", "test_error"):
        assert metrics.last(name) == pytest.approx(logged[name])


def test_models_are_named_by_their_files_where_their_names_are_equal(weights_file, tmp_path):
    deeper = small_config()
    deeper.model.depth = 14
    copies = [write_copy(weights_file, tmp_path / f"seed{i}.safetensors") for i in (0, 1)]
    other = write_copy(weights_file, tmp_path / "deeper.safetensors", config=deeper, variables={})
    with pytest.raises(WeightsError, match="does not fit the model resnet-14"):
        load_weights([other])
    names = [source.name for source in load_weights(copies)]
    assert names == ["seed0", "seed1"]
    same_name = write_copy(weights_file, tmp_path / "b" / "seed0.safetensors")
    with pytest.raises(ConfigError, match=r"same name in figures, seed0; rename the file"):
        load_weights([copies[0], same_name])
    with pytest.raises(ConfigError, match=r"--weights has .*seed0.safetensors twice"):
        load_weights([copies[0], copies[1], copies[0]])


def test_runs_and_weights_together(digits_run, weights_file, tmp_path):
    workdir = tmp_path / "sweep"
    shutil.copytree(digits_run, workdir / "resnet-8" / "seed-0")
    sources = select_sources(workdir, [str(weights_file)])
    assert sorted(source.name for source in sources) == ["mine", "resnet-8/seed-0"]
    (selected,) = select_sources(workdir, [str(weights_file)], ["mine"])
    assert str(selected) == str(weights_file)
    (selected,) = select_sources(workdir, [str(weights_file)], ["*/seed-0"])
    assert selected == RunSource(workdir / "resnet-8" / "seed-0")
    taken = shutil.copy(weights_file, tmp_path / "resnet-8.safetensors")
    with pytest.raises(ConfigError, match=r"and a run of the workdir have the same name"):
        select_sources(workdir, [str(taken)])
    with pytest.raises(ConfigError, match=r"--only=plain\* matches none of the 2 models, such"):
        select_sources(workdir, [str(weights_file)], ["plain*"])
    with pytest.raises(ConfigError, match=r"--only=plain\* does not match the model resnet-8$"):
        select_sources(None, [str(weights_file)], ["plain*"])
    with pytest.raises(ConfigError, match=r"--only=plain\* does not match the run resnet-8/seed-0"):
        select_sources(workdir, patterns=["plain*"])


def test_a_run_by_itself_and_weights_of_the_same_model_have_different_variants(
    digits_run, weights_file, tmp_path
):
    directory = shutil.copytree(digits_run, tmp_path / "first-try")
    sources = select_sources(directory, [str(weights_file)])
    names = {source.name: source.variant for source in sources}
    assert names == {"first-try": "resnet-8", "mine": "mine"}


def test_shipped_weights_are_in_the_order_of_runs():
    given = ["resnet-56-cifar10_jpeg", "resnet-20-cifar10_jpeg", "plain-20-cifar10_jpeg"]
    assert set(given) <= set(SHIPPED)
    sources = select_sources(None, given, data_dir="data")
    assert [source.name for source in sources] == ["plain-20", "resnet-20", "resnet-56"]
    assert {source.config.dataset.data_dir for source in sources} == {"data"}
    with pytest.raises(DatasetError, match=r"set of plain-20-cifar10_jpeg cannot .*--data_dir"):
        sources[0].load()


def test_files_that_are_no_weights_files(weights_file, digits_run, tmp_path):
    damaged, state_dict = tmp_path / "damaged.safetensors", tmp_path / "model.pth"
    damaged.write_bytes(weights_file.read_bytes()[:1000])
    state_dict.touch()
    for given, error, message in (
        ("resnet-20-cifar10_jpg", WeightsError, "does not exist.*did you mean 'resnet-20-cifar10_"),
        (damaged, WeightsError, "damaged.safetensors is damaged, or not a weights file"),
        (digits_run, ConfigError, f"got the directory {digits_run}; .* with --workdir"),
        (state_dict, ConfigError, "model.pth is a PyTorch state dict, which does not name its da"),
    ):
        with pytest.raises(error, match=message) as caught:
            load_weights([str(weights_file), str(given)])
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="--data_dir requires --weights"):
        select_sources(digits_run, data_dir="data")


@pytest.fixture
def tiny_weights(tmp_path):
    """A weights file of a model for a TFDS data set of 6x5 images, and the data directory."""
    write_tfds(tmp_path / "data")
    config = small_config()
    config.dataset.name, config.dataset.data_dir = "tiny", str(tmp_path / "data")
    dataset = load_dataset(config.dataset)
    images = np.zeros((1, *dataset.image_shape), np.float32)
    model = TrainedRun("", config, dataset, {}, 0).make_model()
    variables = model.init(jax.random.key(0), images, train=False)
    spec = InputSpec(dataset.mean_image(), ("0", "1", "2", "3"))
    path = tmp_path / "tiny.safetensors"
    write_weights(path, Weights(config, 5, dict(variables), spec))
    return path, tmp_path / "data"


def test_data_that_differ_from_those_of_the_training(tiny_weights, tmp_path, capsys):
    path, data_dir = tiny_weights
    (source,) = load_weights([str(path)], str(data_dir))
    source.load()
    assert "other images" not in capsys.readouterr().err
    weights = read_weights(path)
    mean = weights.input_spec.mean
    other_mean = write_copy(
        path,
        tmp_path / "mean.safetensors",
        input_spec=InputSpec(mean + np.float32(0.01), weights.input_spec.class_names),
    )
    load_weights([other_mean], str(data_dir))[0].load()
    assert "mean images differ by up to 1.0e-02" in capsys.readouterr().err
    other_classes = write_copy(
        path,
        tmp_path / "classes.safetensors",
        input_spec=InputSpec(mean, ("a", "b", "c", "d")),
    )
    with pytest.raises(DataChangedError, match=r"classes.safetensors was trained on other classes"):
        load_weights([other_classes], str(data_dir))[0].load()
    wide = np.zeros((6, 8, 3), np.float32)
    other_shape = write_copy(
        path, tmp_path / "shape.safetensors", input_spec=InputSpec(wide, ("0", "1", "2", "3"))
    )
    with pytest.raises(ConfigError, match=r"of shape \(6, 8, 3\), but those .* \(6, 5, 3\)"):
        load_weights([other_shape], str(data_dir))[0].load()
