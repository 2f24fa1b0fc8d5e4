import importlib.util
import os

import pytest

from benchmarks import named_devices
from flaxres.errors import ConfigError, UserError


@pytest.mark.parametrize("name", ["", "v5e", "v5e:0", "v5e:-1", "a:1", "v5e:8:1", "h100: 8"])
def test_wrong_names(name):
    with pytest.raises(ConfigError, match="a kind and a number"):
        named_devices.parse_name(name)


def test_more_devices_than_there_are():
    with pytest.raises(ConfigError, match="at most v5e:64, got 'v5e:65'"):
        named_devices.parse_name("v5e:65")


def test_names():
    kind, count = named_devices.parse_name("v5e:16")
    assert (kind.platform, count) == ("tpu", 16)
    assert named_devices.parse_name("h100:1")[0].platform == "cuda"


@pytest.mark.parametrize(("name", "wheels"), [("v6e:1", "libtpu"), ("h100:8", "jax-cuda12-plugin")])
def test_missing_wheels_are_one_line(monkeypatch, name, wheels):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{wheels}.*{named_devices.REQUIREMENTS}") as error:
        named_devices.named_devices(name)
    assert "\n" not in str(error.value)


def test_messages_of_compilers_are_shown_only_after_an_error(capfd):
    with named_devices.quiet_compilers():
        os.write(2, b"Could not find cuda drivers\n")
    assert capfd.readouterr().err == ""

    def fail():
        os.write(2, b"Check failed: unknown target\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), named_devices.quiet_compilers():
        fail()
    assert capfd.readouterr().err == "Check failed: unknown target\n"
