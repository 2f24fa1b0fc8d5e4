"""`flaxres prepare`. A real data set needs TensorFlow: `make test-prepare`."""

import importlib.util
import signal
import subprocess
import sys

import numpy as np
import pytest

from flaxres.data.prepare import prepare
from flaxres.errors import DatasetError
from tests.conftest import ROOT, write_tfds

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed (make test-prepare installs it)",
)

# A TFDS builder in a module of its own; its images are computed, not downloaded.
BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Ramp(tfds.core.GeneratorBasedBuilder):
    '''Images of a ramp.'''
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(4, 4, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=3),
        })
        return tfds.core.DatasetInfo(builder=self, description="A ramp.", features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30), "test": self._generate_examples(12)}

    def _generate_examples(self, n):
        for i in range(n):
            yield i, {"image": np.full((4, 4, 3), 5 * i, np.uint8), "label": i % 3}
"""


@pytest.fixture
def ramp(tmp_path, monkeypatch):
    """Makes every process import `sitecustomize`, which registers the builder with TFDS."""
    (tmp_path / "ramp").mkdir()
    (tmp_path / "ramp/__init__.py").touch()
    (tmp_path / "ramp/builder.py").write_text(BUILDER)
    (tmp_path / "sitecustomize.py").write_text("import ramp.builder\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@needs_tensorflow
@pytest.mark.slow
def test_prepared_on_first_use_and_then_read_without_tensorflow(python, tmp_path, ramp):
    data_dir = tmp_path / "data"
    code = (
        "import sys\n"
        "from flaxres.data.tfds import load_tfds\n"
        f"dataset = load_tfds('ramp', {str(data_dir)!r}, 'train', 'test')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(len(dataset.train), len(dataset.test), sorted(dataset.train.images[:, 0, 0, 0]))\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "preparing ramp in" in done.stderr
    expected = [np.uint8(5 * i) for i in range(30)]
    assert done.stdout.splitlines()[-1] == f"30 12 {expected}"
    second = python("-c", code)
    assert "preparing" not in second.stderr
    assert second.stdout.splitlines()[-1] == f"30 12 {expected}"


@needs_tensorflow
@pytest.mark.slow
def test_a_jpeg_copy_prepares_its_source_first(python, tmp_path, ramp):
    code = (
        "from flaxres.data.tfds import load_tfds\n"
        f"dataset = load_tfds('ramp_jpeg', {str(tmp_path)!r}, 'train', 'test')\n"
        "print(len(dataset.train), len(dataset.test), sorted(dataset.test.images[:, 0, 0, 0]))\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    # A block of one gray has only a DC coefficient, 8 times the gray, which quality 75 quantizes in
    # steps of 8.
    numbers = done.stdout.splitlines()[-1].replace("np.uint8(", "").replace(")", "")
    sizes, _, values = numbers.partition(" [")
    assert sizes == "30 12"
    np.testing.assert_allclose(
        np.fromstring(values.rstrip("]"), sep=","), np.arange(12) * 5, atol=1
    )
    assert (tmp_path / "ramp/1.0.0/dataset_info.json").exists()


@pytest.mark.parametrize("name", ["nowhere_at_all", "tiny_JPEG", "tiny_jpeg:1.0.0", "tiny_jpeg "])
def test_unknown_names(tmp_path, name):
    """The names are checked before TensorFlow is needed."""
    write_tfds(tmp_path)
    with pytest.raises(
        DatasetError, match=f"^data set '{name}' (is neither|in .* cannot be opened)"
    ):
        prepare(name, str(tmp_path))


def test_own_data_sets_need_no_preparation():
    assert prepare("digits") == "digits needs no preparation"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing(tmp_path, signum):
    """The exit code is 128 + the number of the signal."""
    write_tfds(tmp_path)
    code = (
        "import os, time\n"
        "from flaxres import plain_commands\n"
        "from flaxres.data import jpeg_copy, prepare\n"
        "def wait(image, quality):\n"
        "    os.write(2, b'ready\\n')\n"
        "    time.sleep(60)\n"
        "jpeg_copy.encode_jpeg = wait\n"
        "plain_commands.run(prepare.main)\n"
    )
    command = [sys.executable, "-c", code, "--name=tiny_jpeg", f"--data_dir={tmp_path}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "ready\n"
    assert len(list((tmp_path / "tiny_jpeg").iterdir())) == 1
    process.send_signal(signum)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 128 + signum
    assert list((tmp_path / "tiny_jpeg").iterdir()) == []


def test_a_data_set_that_is_already_prepared(tmp_path):
    """No TensorFlow is needed."""
    write_tfds(tmp_path)
    assert prepare("tiny", str(tmp_path)) == f"already prepared: {tmp_path}/tiny/1.0.0"


def test_the_name_flag_is_required(python):
    done = python("-m", "flaxres.data.prepare")
    assert done.returncode == 2
    assert "--name" in done.stderr
