import json
import os
import textwrap
from pathlib import Path

import numpy as np
import pytest

from flaxres.data import open_sources
from flaxres.data.resize import image_to_array
from flaxres.errors import ConfigError
from flaxres.inference.export import (
    export_format,
    export_metadata,
    export_model,
    write_export,
)
from flaxres.inference.predictor import Predictor
from flaxres.inference.pretrained import load_pretrained
from flaxres.inference.trained_model import load_trained_model
from tests.inference.test_trained_model import random_model
from tests.test_main import fails

# A user's program, as in the docstring of flaxres.inference.export_stablehlo. It must not import
# flaxres.
USER_PROGRAM = """
import json, pathlib, sys
import jax.export
import numpy as np

model = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
metadata = json.loads(pathlib.Path(sys.argv[1] + ".json").read_text())
images = np.load(sys.argv[2])
assert list(images.shape[1:]) == metadata["image_shape"]
for count in (1, 7):
    np.save(f"{sys.argv[2]}.{count}.npy", model.call(images[:count]))
print(metadata["class_names"][int(model.call(images[:1]).argmax())])
assert "flaxres" not in sys.modules and "flax" not in sys.modules
"""


def first_images(trained, count):
    source = open_sources(trained.config.dataset).test
    return np.stack([image_to_array(source.load(i)[0]) for i in range(count)])


def test_jax_without_flaxres_runs_an_export(python, tmp_path, digits_run):
    output = tmp_path / "model.stablehlo"
    done = python(
        *("-m", "flaxres.main", "--mode=export", f"--workdir={digits_run}", f"--output={output}")
    )
    assert done.returncode == 0, done.stderr
    assert "resnet-8 in " in done.stdout
    assert "after 20 steps" in done.stdout
    trained = load_trained_model(digits_run)
    images = first_images(trained, 7)
    np.save(tmp_path / "images.npy", images)
    script = tmp_path / "user_program.py"
    script.write_text(textwrap.dedent(USER_PROGRAM))
    done = python("-I", script, output, tmp_path / "images.npy")
    assert done.returncode == 0, done.stderr
    expected = np.exp(Predictor([trained], trained.config).launch(images, 7))
    for count in (1, 7):
        probabilities = np.load(tmp_path / f"images.npy.{count}.npy")
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    assert done.stdout.strip() == str(expected[0].argmax())

    metadata = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert metadata == json.loads(json.dumps(export_metadata(trained)))
    assert metadata["class_names"] == list("0123456789")
    assert metadata["config"]["model"]["widths"] == [4, 8, 8]


def test_an_export_is_plain_stablehlo_for_all_platforms(digits_run):
    exported = export_model(load_trained_model(digits_run))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "flaxres" not in exported.mlir_module()  # no CPU kernels, no paths of source files
    assert str(exported.in_avals[0]) == "uint8[n,8,8,1]"
    assert str(exported.out_avals[0]) == "float32[n,10]"


@pytest.mark.parametrize(
    ("name", "fields"),
    [("lenet-5", {}), ("preact-8", {"norm": "group", "widths": (8, 16, 16)})],
)
def test_models_with_other_layers(name, fields):
    trained = random_model(name, **fields)
    images = first_images(trained, 3)
    expected = np.exp(Predictor([trained], trained.config).launch(images, 3))
    np.testing.assert_allclose(export_model(trained).call(images), expected, atol=1e-5)


def test_an_export_that_cannot_be_written(tmp_path, digits_run, python):
    trained = load_trained_model(digits_run)
    with pytest.raises(ConfigError, match="--output must be a file"):
        write_export(trained, tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "model.json").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (
        ("link", "link is a symbolic link"),
        ("model", "model.json is a symbolic link"),  # the metadata
        ("pipe", "pipe is a named pipe"),
        ("/dev/null", "null is a device"),
    ):
        with pytest.raises(ConfigError, match=f"{kind} instead of a regular file; choose another"):
            write_export(trained, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["link", "model.json", "pipe"]
    for name in (".", "/", ".."):
        with pytest.raises(ConfigError, match="--output must be a file"):
            write_export(trained, Path(name))
    (tmp_path / "model.json").unlink()
    for name in ("metrics.jsonl", "config.json"):
        (tmp_path / name).write_text("{}")
    for name in ("metrics.jsonl", "config"):  # files of a run
        with pytest.raises(ConfigError, match="exists and does not belong to an export"):
            write_export(trained, tmp_path / name)
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        write_export(trained, tmp_path / "nowhere" / "model.stablehlo")
    arguments = ("-m", "flaxres.main", f"--workdir={digits_run}")
    fails(python(*arguments, "--mode=export"), 2, "--output is missing")


def test_suffixes_in_capitals():
    assert [export_format(Path(name)) for name in ("A.PTH", "a.Onnx", "A")] == [
        *("torch", "onnx", "stablehlo")
    ]


def test_formats_of_files(tmp_path, digits_run, python):
    for name, given, chosen in (
        ("model", None, "stablehlo"),
        ("model.pt", None, "torch"),
        ("model.safetensors", None, "safetensors"),
        ("model.safetensors", "torch", "torch"),
        ("model.onnx", None, "onnx"),
        ("model.pth", "onnx", "onnx"),
    ):
        assert export_format(Path(name), given) == chosen
    with pytest.raises(ConfigError, match=r"must end in \.safetensors, got model\.net"):
        export_format(Path("model.net"), "safetensors")
    trained = load_trained_model(digits_run)
    output = tmp_path / "model.safetensors"
    arguments = ("-m", "flaxres.main", "--mode=export", f"--output={output}")
    done = python(*arguments, f"--workdir={digits_run}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"after 20 steps to {output}\n")
    assert write_export(load_pretrained(output), output) is None  # replaces it
    assert os.listdir(tmp_path) == ["model.safetensors"]
    with pytest.raises(ConfigError, match="exists and does not belong to an export"):
        write_export(trained, output, "torch")
    (tmp_path / "other.safetensors").write_bytes(b"")
    fails(
        python(
            *arguments[:-1],
            "--weights=plain-20-cifar10_jpeg",
            "--format=safetensors",
            "--output=model.pth",
        ),
        2,
        "must end in .safetensors",
    )


def test_weights_are_not_written_over_a_state_dict(tmp_path, digits_run):
    trained = load_trained_model(digits_run)
    output = tmp_path / "model.safetensors"
    write_export(trained, output, "torch")
    with pytest.raises(ConfigError, match="exists and does not belong to an export"):
        write_export(trained, output)
