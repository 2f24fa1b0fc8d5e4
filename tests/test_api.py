"""The public names of `import flaxres`: when they are imported, and what they give."""

import functools
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import required_placeholder

import flaxres
from flaxres.errors import ArgumentError, ConfigError
from tests.conftest import ROOT


def test_import_is_quick_and_imports_no_jax():
    code = (
        "import sys, time; start = time.perf_counter(); import flaxres; "
        "print(time.perf_counter() - start, 'jax' in sys.modules, 'absl' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    seconds, *imported = done.stdout.split()
    assert float(seconds) < 0.3
    assert imported == ["False", "False"]


def test_every_public_name_can_be_imported():
    for name in flaxres._MODULES:
        assert getattr(flaxres, name).__doc__
        assert name in dir(flaxres)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        flaxres.trian  # noqa: B018


def test_configs_have_overrides(tmp_path):
    config = flaxres.get_config(
        "digits:resnet-8", seed=3, dataset={"data_dir": tmp_path}, **{"augment.pad": 1}
    )
    assert (config.seed, config.augment.pad, config.model.depth) == (3, 1, 8)
    assert config.dataset.data_dir == str(tmp_path)
    with pytest.raises(ConfigError, match="unknown config field 'sead'"):
        flaxres.get_config("digits", sead=3)
    with pytest.raises(ConfigError, match="seed must be"):
        flaxres.get_config("digits", seed="three")


def test_numpy_values_and_paths_are_values_of_configs():
    source = pathlib.Path(ROOT / "configs" / "digits.py:resnet-8")
    config = flaxres.get_config(source, seed=np.int64(3), boundaries=np.array([2, 5]))
    assert (config.seed, config.boundaries, config.model.depth) == (3, (2, 5), 8)
    dataset = FrozenConfigDict({"data_dir": "birds"})
    assert flaxres.get_config("digits", dataset=dataset).dataset.data_dir == "birds"
    rate = flaxres.get_config("digits", learning_rate=np.float64(0.25)).learning_rate
    assert (rate, type(rate)) == (0.25, float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flaxres.get_config(3), "source must be text or a path, and not empty, got 3"),
        (lambda: flaxres.get_config("digits", num_steps=3, num_epochs=2), "got num_steps=3 and"),
        (lambda: flaxres.create_model(None), "name must be the name of a model"),
        (lambda: flaxres.create_model("resnet-8", dtype=np.float32), "dtype must be 'float32' or"),
        (lambda: flaxres.train({}, "w"), "config must be a config, such as"),
        (lambda: flaxres.train("digits:resnet-8", ""), "workdir must be text or a path, and not"),
        (lambda: flaxres.train("digits:resnet-8", "w", resume="x"), "resume must be one of auto,"),
        (
            lambda: flaxres.train("digits:resnet-8", "w", resume=np.array(["a", "b"])),
            "resume must be one of auto, ",
        ),
        (
            lambda: flaxres.get_config(
                "digits", model=ConfigDict({"depth": required_placeholder(int)})
            ),
            "config fields must have values, but a required one of model has none",
        ),
        (lambda: flaxres.analyze(np.array(["a", "b"])), "analysis must be one of"),
        (
            lambda: flaxres.run_sweep(b"x", "w"),
            "sweep must be the name or path of a sweep file, or runs as flaxres.grid returns them, "
            "got b'x'",
        ),
        (lambda: flaxres.train("digits:resnet-8", "w", stop=3), "stop must be a threading.Event"),
        (lambda: flaxres.load(b"w"), "workdir must be text or a path"),
        (lambda: flaxres.load("w", config=3), "config must be a config"),
        (lambda: flaxres.load("w", step="4"), "step must be an integer, got '4'"),
        (lambda: flaxres.load_pretrained(None), "source must be text or a path"),
        (lambda: flaxres.load_results("w\0"), "workdir must be text or a path"),
        (lambda: flaxres.load_results("w", all_fields="no"), "all_fields must be True or False, g"),
        (
            lambda: flaxres.load("w", batch_stats=3),
            "batch_stats must be 'running' or 'population',",
        ),
        (lambda: flaxres.load_pretrained("w", batch_stats=[]), "batch_stats must be 'running' or"),
        (
            lambda: flaxres.create_model("resnet-8", stem=3),
            "stem must be 'cifar' or 'imagenet', go",
        ),
        (
            lambda: flaxres.train("digits", "w", progress="no"),
            "progress must be True or False, got",
        ),
        (
            lambda: flaxres.train("digits", "w", allow_data_change=3),
            "allow_data_change must be Tru",
        ),
        (lambda: flaxres.analyze(None), "analysis must be one of"),
        (
            lambda: flaxres.analyze("blocks", weights=3),
            "weights must be text or a path, or a seque",
        ),
        (lambda: flaxres.analyze("blocks", weights=None), "weights must be text or a path, or a "),
        (
            lambda: flaxres.analyze("blocks", weights=[3]),
            "weights must be text or a path, and not ",
        ),
        (
            lambda: flaxres.analyze("blocks", "w", only=3),
            "only must be a pattern of names, such as",
        ),
        (lambda: flaxres.analyze("blocks", "w", only=[3]), "only must be a pattern of names, such"),
        (lambda: flaxres.analyze("blocks", "w", output=3), "output must be text or a path"),
        (
            lambda: flaxres.run_sweep(3, "w"),
            "sweep must be the name or path of a sweep file, or ru",
        ),
        (lambda: flaxres.run_sweep("shortcuts", 3), "workdir must be text or a path"),
        (lambda: flaxres.run_sweep("shortcuts", "w", only=3), "only must be a pattern, such as"),
        (
            lambda: flaxres.run_sweep("shortcuts", "w", overrides=3),
            "overrides must be a dict of co",
        ),
        (
            lambda: flaxres.run_sweep("shortcuts", "w", workers="2"),
            "workers must be an integer of ",
        ),
        (
            lambda: flaxres.run_sweep("shortcuts", "w", retries=-1),
            "retries must be an integer of a",
        ),
    ],
)
def test_wrong_arguments_are_one_line(call, message, tmp_path, monkeypatch, unchecked_types):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        call()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (3, ["resnet-8"]),
            "config must be the name or path of a config file, such as 'digits', g",
        ),
        (("digits", "resnet-8"), "variants must be names of models, .*, got 'resnet-8'"),
        (("digits", 3), "variants must be names of models, such as .*, got 3"),
        (("digits", [3]), r"variants must be names of models, such as .*, got \[3\]"),
        (("digits", {"slow": "resnet-8"}), "or a dict of models and overrides, .*'slow'"),
        (("digits", ["resnet-8"], 3), r"seeds must be integers, such as \[0, 1\], got 3"),
        (("digits", ["resnet-8"], ["0"]), r"seeds must be integers, such as \[0, 1\], got \['0'\]"),
    ],
)
def test_wrong_arguments_of_a_grid(arguments, message, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        flaxres.grid(*arguments)


def test_models_are_flax_modules():
    import jax

    model = flaxres.create_model("resnet-8", num_classes=7, widths=(4, 4, 8))
    images = np.zeros((2, 8, 8, 3), np.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    assert variables["params"]["conv"]["kernel"].shape == (3, 3, 3, 4)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    logits, updated = jax.eval_shape(apply, variables, images)
    assert logits.shape == (2, 7)
    assert updated["batch_stats"].keys() == variables["batch_stats"].keys()


def test_numbers_of_numpy_create_the_same_model(unchecked_types):
    expected = flaxres.create_model("resnet-8", num_classes=7)
    assert flaxres.create_model("resnet-8", num_classes=np.int64(7)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet-8", "num_classes": 0}, "num_classes must be a positive integer, got 0"),
        ({"name": "resnet-8", "width": 3}, "unknown config field 'model.width'"),
        ({"name": "resnet-8", "dtype": "float16"}, "dtype must be"),
        ({"name": "plain-8", "shortcut": "A"}, "model.shortcut must be none"),
        ({"name": "resnt-8"}, "did you mean"),
    ],
)
def test_bad_models_are_one_line(arguments, message):
    with pytest.raises(flaxres.errors.UserError, match=message):
        flaxres.create_model(**arguments)
