"""Shared fixtures and helpers: a small experiment, its run, models, and a small TFDS data set."""

import contextlib
import functools
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

import tests.runtime_types  # noqa: F401  (the hook looks it up by name)
from tests.thorough import PATTERNS

# Checks all annotations of the library at every call, with shapes and dtypes of arrays.
PROGRAM_PACKAGES = ("configs", "experiments")
LIBRARY = [
    f"flaxres.{path.stem}"
    for path in (Path(__file__).parent.parent / "flaxres").glob("[a-z]*")
    if path.stem not in PROGRAM_PACKAGES
]
install_import_hook(LIBRARY, "tests.runtime_types.check")

from flaxres import cpu  # noqa: E402
from flaxres.cpu import compilation_cache  # noqa: E402

cpu.set_xla_flags()

import flax.struct  # noqa: E402
import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)  # only in this process, for tests with several devices
compilation_cache.enable_compilation_cache()  # many tests compile the same programs

ROOT = Path(__file__).parent.parent
PROGRAMS = ("benchmarks.", "flaxres.experiments.")  # packages whose modules define flags

THOROUGH = re.compile(f"tests/({'|'.join(PATTERNS)})")


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their markers
def pytest_collection_modifyitems(items):
    """Marks the tests that `make test-thorough` runs."""
    for item in items:
        if THOROUGH.match(item.nodeid):
            item.add_marker("thorough")


_dataclass = flax.struct.dataclass


def _dataclass_without_checks(cls, **options):
    """Creates a pytree dataclass. JAX also stores other objects than arrays in its fields."""
    cls = _dataclass(cls, **options)
    cls.__no_type_check__ = True
    return cls


flax.struct.dataclass = _dataclass_without_checks


@pytest.fixture
def isolated_flags():
    """Isolates a test that imports a program whose flags may be defined by other programs too.

    Removes the flags of all programs before the test. Afterwards it removes the flags and modules
    of the test and restores the earlier flags.
    """
    values, modules = flags.FLAGS, set(sys.modules)
    removed = {name: values[name] for name in values if _is_defined_by_a_program(name)}
    values.remove_flag_values(removed)
    remaining = set(values)
    yield
    values.remove_flag_values(set(values) - remaining)
    for name in sorted(set(sys.modules) - modules, reverse=True):  # modules before their packages
        if name.startswith(PROGRAMS):
            del sys.modules[name]
            package, _, attribute = name.rpartition(".")
            delattr(sys.modules[package], attribute)
    for name, flag in removed.items():
        values[name] = flag


def _is_defined_by_a_program(flag):
    module = flags.FLAGS.find_module_defining_flag(flag)
    return module is None or module.startswith(PROGRAMS)


# `jax.jit` with fast compilation and slow code, for functions that run once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@contextlib.contextmanager
def optimizations(are_on):
    """Sets whether JAX optimizes programs, also in processes that are started in this context."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), str(int(not are_on)))
        jax.config.update(name, not are_on)
        yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles fast and slow code for the tests of a module, and in processes that they start.

    It is for tests whose programs run once or for a few steps, and that compare with a tolerance.
    """
    with optimizations(are_on=False):
        yield


def init(model, images):
    """Returns initial variables of a model, computed by one program."""
    return quick_jit(lambda x: model.init(jax.random.key(0), x, train=True))(images)


def outputs_of_layers(model, variables, images):
    """Returns the outputs of a model's outermost layers and blocks in evaluation, by name."""

    def is_outermost(module, method):
        return len(module.path) == 1 and method == "__call__"

    def outputs(variables):
        capture = {"capture_intermediates": is_outermost}
        return model.apply(variables, images, train=False, **capture)[1]["intermediates"]

    captured = quick_jit(outputs)(variables)
    return {name: calls["__call__"][0] for name, calls in captured.items() if name != "__call__"}


def cifar_model(depth, shortcut, num_classes=10, **fields):
    """Returns a CIFAR ResNet of He15, section 4.2, or a variant with other `fields`."""
    from flaxres.models.resnet import ResNet, stages_of_depth
    from flaxres.models.shortcuts import Shortcut

    stages = stages_of_depth(depth, fields.get("block", "basic"), "cifar")
    return ResNet(stages=stages, shortcut=Shortcut(shortcut), num_classes=num_classes, **fields)


def small_config():
    """Returns the config of a small experiment: ResNet-8 on the digits, 20 steps."""
    from flaxres.configs import digits

    config = digits.get_config("resnet-8")
    config.num_steps = 20
    config.boundaries = (10, 15)
    config.batch_size = 32
    config.model.widths = (4, 8, 8)
    config.log_every = 4
    config.eval_every = 10
    config.checkpoint_every = 5
    config.num_devices = 1
    return config


@pytest.fixture
def config():
    """Returns the config of the small experiment; tests may change it."""
    return small_config()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Returns the directory of the small experiment's finished run; tests must not change it."""
    from flaxres.training.train import train_and_evaluate

    workdir = tmp_path_factory.mktemp("digits") / "run"
    with optimizations(are_on=True):  # the first test that needs the run may have turned them off
        train_and_evaluate(small_config(), workdir)
    return workdir


@pytest.fixture
def finished(digits_run, tmp_path):
    """Returns a copy of the directory of the small experiment's finished run."""
    return shutil.copytree(digits_run, tmp_path / "finished")


@pytest.fixture
def unchecked_types(monkeypatch):
    """Turns the checks of annotations off, which users do not have, for tests of wrong types."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.fixture
def python():
    """Returns a function that runs `python ARGS` in the root of the repository.

    `python -m MODULE` runs in a process that is forked after the imports (`tests.commands`).
    """
    from tests.commands import run_command

    def run(*args, timeout=300, **kwargs):
        if args[0] == "-m" and not kwargs:
            outcome = run_command(*args[1:], timeout=timeout)
            return subprocess.CompletedProcess(args, outcome.code, outcome.stdout, outcome.stderr)
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            **kwargs,
        )

    return run


def write_tfds(
    data_dir,
    name="tiny",
    sizes=(("train", 50), ("test", 20)),
    extra=None,
    file_format="array_record",
    shape=(6, 5, 3),
):
    """Writes a prepared TFDS data set of PNG images without TensorFlow.

    Args:
      data_dir: directory of all data sets.
      name: name of the data set.
      sizes: name and number of images of each split.
      extra: further features for features.json; records have a value of 'id' only, SPLIT_NUMBER.
      file_format: format of the shards.
      shape: (height, width, channels) of the images.

    Returns:
      (images, labels) of each split by name.
    """
    from array_record.python import array_record_module
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    path = Path(data_dir) / name / "1.0.0"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in sizes:
        images = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
        labels = rng.integers(0, 4, size)
        writer = array_record_module.ArrayRecordWriter(
            str(path / f"{name}-{split}.{file_format}-00000-of-00001"), "group_size:1"
        )
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image[..., 0] if shape[2] == 1 else image).save(png, "PNG")
            feature = {
                "image": tf_feature_pb2.Feature(
                    bytes_list=tf_feature_pb2.BytesList(value=[png.getvalue()])
                ),
                "label": tf_feature_pb2.Feature(
                    int64_list=tf_feature_pb2.Int64List(value=[int(label)])
                ),
            }
            if "id" in (extra or {}):
                name_of_record = tf_feature_pb2.BytesList(value=[f"{split}_{number}".encode()])
                feature["id"] = tf_feature_pb2.Feature(bytes_list=name_of_record)
            example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature))
            writer.write(example.SerializeToString())
        writer.close()
        arrays[split] = images, labels
    module = "tensorflow_datasets.core.features."
    dimensions = {"dimensions": list(map(str, shape))}
    features = {
        "image": {
            "pythonClassName": module + "image_feature.Image",
            "image": {"dtype": "uint8", "encodingFormat": "png", "shape": dimensions},
        },
        "label": {
            "pythonClassName": module + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "4"},
        },
    } | (extra or {})
    (path / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": module + "features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "shardLengths": [str(size)],
                "numBytes": "1000",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, size in sizes
        ],
    }
    (path / "dataset_info.json").write_text(json.dumps(info))
    return arrays
