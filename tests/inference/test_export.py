import json
import textwrap

import numpy as np
import pytest

from flaxres.data import open_sources
from flaxres.data.resize import image_to_array
from flaxres.errors import ConfigError
from flaxres.inference.export import about, export_net, write_export
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import load_trained_model
from tests.inference.test_trained_model import random_net
from tests.test_main import fails

# What a user's program does, see the docstring of flaxres.inference.export; flaxres must not be there.
ALONE = """
import json, pathlib, sys
import jax.export
import numpy as np

net = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
about = json.loads(pathlib.Path(sys.argv[1] + ".json").read_text())
images = np.load(sys.argv[2])
assert list(images.shape[1:]) == about["image_shape"]
for count in (1, 7):
    np.save(f"{sys.argv[2]}.{count}.npy", net.call(images[:count]))
print(about["class_names"][int(net.call(images[:1]).argmax())])
assert "flaxres" not in sys.modules and "flax" not in sys.modules
"""


def images_of(net, count):
    source = open_sources(net.config.dataset).test
    return np.stack([image_to_array(source.load(i)[0]) for i in range(count)])


def test_jax_alone_runs_an_export(python, tmp_path, digits_run):
    output = tmp_path / "net.stablehlo"
    done = python(
        *("-m", "flaxres.main", "--mode=export", f"--workdir={digits_run}", f"--output={output}")
    )
    assert done.returncode == 0, done.stderr
    assert "resnet-8 in " in done.stdout
    assert "after 20 steps" in done.stdout
    net = load_trained_model(digits_run)
    images = images_of(net, 7)
    np.save(tmp_path / "images.npy", images)
    script = tmp_path / "alone.py"
    script.write_text(textwrap.dedent(ALONE))
    done = python("-I", script, output, tmp_path / "images.npy")
    assert done.returncode == 0, done.stderr
    expected = np.exp(Predictor([net], net.config).launch(images, 7))
    for count in (1, 7):
        found = np.load(tmp_path / f"images.npy.{count}.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    assert done.stdout.strip() == str(expected[0].argmax())

    described = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert described == json.loads(json.dumps(about(net)))
    assert described["class_names"] == list("0123456789")
    assert described["config"]["model"]["widths"] == [4, 8, 8]


def test_an_export_is_plain_stablehlo_for_all_platforms(digits_run):
    exported = export_net(load_trained_model(digits_run))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "flaxres" not in exported.mlir_module()  # names of the CPU kernels, paths of files
    assert str(exported.in_avals[0]) == "uint8[n,8,8,1]"
    assert str(exported.out_avals[0]) == "float32[n,10]"


@pytest.mark.parametrize(
    ("name", "fields"),
    [("lenet-5", {}), ("preact-8", {"norm": "group", "widths": (8, 16, 16)})],
)
def test_nets_of_other_layers(name, fields):
    net = random_net(name, **fields)
    images = images_of(net, 3)
    expected = np.exp(Predictor([net], net.config).launch(images, 3))
    np.testing.assert_allclose(export_net(net).call(images), expected, atol=1e-5)


def test_where_an_export_cannot_be_written(tmp_path, digits_run, python):
    net = load_trained_model(digits_run)
    with pytest.raises(ConfigError, match="--output must be a file"):
        write_export(net, tmp_path)
    with pytest.raises(ConfigError, match="there is no directory"):
        write_export(net, tmp_path / "nowhere" / "net.stablehlo")
    arguments = ("-m", "flaxres.main", f"--workdir={digits_run}")
    fails(python(*arguments, "--mode=export"), 2, "--output is missing")
