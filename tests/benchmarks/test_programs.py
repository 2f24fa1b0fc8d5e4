import json

import jax
import pytest

from flaxres.errors import ConfigError
from tests.conftest import small_config

pytestmark = pytest.mark.usefixtures("isolated_flags", "quick_compilation")


@pytest.fixture
def programs():
    from benchmarks import programs

    return programs


def test_a_train_step_of_this_machine(programs, monkeypatch):
    monkeypatch.setenv("FLAXRES_CPU_KERNELS", "0")
    config = small_config()
    facts, text = programs.compile_program(config, jax.devices()[:1], num_steps=2)
    assert facts["steps"] == 2
    assert facts["images_on_a_device"] == config.batch_size
    assert facts["all_reduces"] == 0
    assert facts["donated"] == facts["aliased"] > 0
    assert facts["host_transfers"] == {}
    assert facts["memory"]["arguments"] > 1_437 * 64  # the digits
    assert text.startswith("HloModule")
    rows = dict(programs.table_rows(facts))
    assert rows["all-reduces a step"] == "0"
    assert rows["images on a device"] == str(config.batch_size)
    assert rows["donated arrays"] == rows["results in the buffer of an argument"]
    assert rows["host transfers"] == "none"
    json.dumps(facts)


def test_evaluation_and_layer_statistics(programs):
    for step in ("evaluation", "layers"):
        facts, _ = programs.compile_program(small_config(), jax.devices()[:1], step)
        assert facts["steps"] == 1
        assert facts["donated"] == 0


def test_another_number_of_devices_in_the_config(programs):
    config = small_config()
    config.num_devices = 2
    with pytest.raises(ConfigError, match="the number of devices in --devices, 1, got 2"):
        programs.compile_program(config, jax.devices()[:1])


@pytest.mark.parametrize(
    ("flag", "error"), [((), "is missing"), (("--devices=v5e:65",), "must be at most v5e:64")]
)
def test_wrong_devices(python, flag, error):
    outcome = python("-m", "benchmarks.programs", "--config=configs/digits.py:resnet-8", *flag)
    assert outcome.returncode == 2
    assert outcome.stderr.splitlines()[-1].startswith(f"error: --devices {error}")
