"""Evaluation and prediction from weights files and names, without a workdir."""

import json

import numpy as np
import pytest
from PIL import Image

from flaxres.configs import digits
from flaxres.data import load_dataset
from flaxres.inference.pretrained import save_weights
from flaxres.inference.trained_model import load_trained_model
from flaxres.run.records import last_record
from tests.conftest import write_tfds
from tests.test_main import fails


@pytest.fixture(scope="module")
def weights(digits_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(load_trained_model(digits_run), path)
    return path


def run(python, mode, *arguments):
    return python("-m", "flaxres.main", f"--mode={mode}", *arguments)


def test_evaluation_of_a_weights_file(python, weights, digits_run):
    done = run(python, "eval", f"--weights={weights}", "--splits=test", "--config.num_devices=1")
    assert done.returncode == 0, done.stderr
    assert f"test_error: {last_record(digits_run)['test_error']:.6g}" in done.stdout


def test_errors_by_class(python, weights):
    done = run(python, "eval", f"--weights={weights}", "--splits=test", "--by_class")
    assert done.returncode == 0, done.stderr
    values = dict(line.split(": ") for line in done.stdout.splitlines())
    dataset = load_dataset(digits.get_config().dataset)
    counts = np.bincount(dataset.test.labels)
    errors = [float(values.pop(f"test_error_{digit}")) for digit in range(10)]
    assert np.average(errors, weights=counts) == pytest.approx(float(values["test_error"]), 1e-4)
    assert not any(name.startswith("test_error_") for name in values)
    done = run(python, "predict", f"--weights={weights}", "--by_class", "--images=x.png")
    fails(done, 2, "--by_class=True applies to --mode=eval, got --mode=predict")


def test_predictions_of_a_name(python, tmp_path):
    Image.new("RGB", (40, 30), (90, 140, 200)).save(tmp_path / "sky.png")
    arguments = ("--weights=resnet-20-cifar10_jpeg", f"--images={tmp_path / 'sky.png'}", "--json")
    done = run(python, "predict", *arguments, "--top=10")
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)["predictions"]
    assert sum(p["probability"] for p in predictions) == pytest.approx(1, abs=1e-5)
    assert {p["class"] for p in predictions} > {"airplane", "truck", "frog"}


def test_training_from_a_name(python, tmp_path):
    write_tfds(tmp_path)
    done = python(
        *("-m", "flaxres.main", "--config=configs/cifar10.py:resnet-20"),
        *("--init_from=resnet-20-cifar10_jpeg", "--config.transfer.new_head=True"),
        *("--config.dataset.name=tiny", f"--config.dataset.data_dir={tmp_path}"),
        *("--config.num_steps=2", "--config.boundaries=()", "--config.batch_size=8"),
        *("--config.augment.pad=0", f"--workdir={tmp_path / 'run'}"),
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["init_from"] == "resnet-20-cifar10_jpeg"


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--weights=resnet-20-cifar",), 1, ("did you mean 'resnet-20-cifar10_jpeg'?",)),
        (("--weights=WEIGHTS", "--workdir=x"), 2, ("--weights and --workdir exclude each other",)),
        (("--weights=WEIGHTS", "--config.seed=3"), 2, ("seed cannot be changed", "got 3")),
        (("--weights=WEIGHTS", "--config.sed=3"), 2, ("'sed'; did you mean 'seed'?",)),
        (("--weights=WEIGHTS", "--config=configs/digits.py:plain-8"), 2, ("holds resnet-8, but",)),
        (("--config.seed=3",), 2, ("--workdir is missing", "or --weights")),
    ],
)
def test_mistakes(python, weights, arguments, code, parts):
    done = run(python, "eval", *(text.replace("WEIGHTS", str(weights)) for text in arguments))
    fails(done, code, *parts)


def test_a_misspelled_suffix_is_a_note(python, weights, tmp_path):
    done = run(python, "export", f"--weights={weights}", f"--output={tmp_path / 'model.onxn'}")
    assert done.returncode == 0, done.stderr
    assert "the format is stablehlo" in done.stderr
    assert "did you mean '.onnx'?" in done.stderr


def test_a_run_with_other_fields(python, digits_run):
    done = run(python, "eval", f"--workdir={digits_run}", "--config.eval_batch_size=60")
    assert done.returncode == 0, done.stderr
    done = run(python, "eval", f"--workdir={digits_run}", "--config.seed=7")
    fails(done, 1, "seed is 0 in the workdir and 7 in this config")
