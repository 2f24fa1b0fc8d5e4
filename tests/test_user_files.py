"""Tests of how config and sweep files are found."""

from pathlib import Path

import pytest

from flaxres.arguments import find_configs
from flaxres.errors import ConfigError
from flaxres.user_files import (
    CONFIGS,
    SWEEPS,
    call_get_config,
    find_config,
    find_sweep,
    shipped_names,
)
from tests.conftest import ROOT

SHIPPED = ROOT / "flaxres"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("digits", f"{SHIPPED}/configs/digits.py"),
        ("digits:resnet-20", f"{SHIPPED}/configs/digits.py:resnet-20"),
        ("configs/digits.py:plain-8", f"{SHIPPED}/configs/digits.py:plain-8"),
        ("digits.py", "digits.py"),
        ("main.py", "main.py"),  # of flaxres, but no config
        ("no_such_config:resnet-20", "no_such_config:resnet-20"),
        ("", ""),
    ],
)
def test_shipped_configs(source, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(source) == found


def test_the_users_own_files_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path("configs/digits.py")
    own.parent.mkdir()
    own.write_text("")
    assert find_config("digits:resnet-20") == "configs/digits.py:resnet-20"
    assert find_config("configs/digits.py") == "configs/digits.py"
    Path("digits").write_text("")  # a file without a suffix is given by its path
    assert find_config("digits") == "digits"
    Path("cifar10").mkdir()  # such as a directory of runs
    assert find_config("cifar10") == f"{SHIPPED}/configs/cifar10.py"


def test_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = f"{SHIPPED}/configs/sweeps/widths.py"
    assert find_sweep("widths") == find_sweep("configs/sweeps/widths.py") == file
    assert find_sweep("widths:configs/cifar10.py") == f"{file}:configs/cifar10.py"
    assert find_sweep("digits") == "digits"


def test_shipped_names():
    assert set(shipped_names(CONFIGS)) >= {"cifar10", "digits", "imagenet"}
    assert set(shipped_names(SWEEPS)) >= {"degradation", "shortcuts", "widths"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digts:resnet-20", r"config file 'digts' does not exist; did you mean 'digits'\?"),
        ("configs/cifar.py", r"'configs/cifar.py' does not exist; did you mean 'configs/cifar10"),
        ("nothing_like_it", "'nothing_like_it' does not exist; give a Python file"),
    ],
)
def test_similar_names(source, message):
    with pytest.raises(ConfigError, match=message):
        call_get_config(source)


def test_arguments():
    given = "--x -config digits:resnet-20 --config=digits --config.seed=1 -- --config=digits"
    expected = given.replace("config digits:", "config configs/digits.py:")
    expected = expected.replace(
        "--config=digits --config.s", "--config=configs/digits.py --config.s"
    )
    assert find_configs(given.split()) == expected.split()
