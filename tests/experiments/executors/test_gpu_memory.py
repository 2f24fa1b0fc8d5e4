import pytest
from jaxlib import xla_client

from flaxres.experiments.executors.gpu_memory import FRACTION_VARIABLES, memory_variables


@pytest.mark.parametrize("gpus", [0.5, 0.25, 1 / 3, 1 / 7, 0.021])
def test_jax_reads_the_fraction(monkeypatch, gpus):
    for name in FRACTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in memory_variables(gpus, {}).items():
        monkeypatch.setenv(name, value)
    # Options of the clients of NVIDIA and AMD GPUs.
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options["memory_fraction"] == pytest.approx(0.75 * gpus, rel=1e-3)


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_whole_gpus_have_no_limit(gpus):
    assert memory_variables(gpus, {}) == {}


def test_values_of_the_user_take_precedence():
    for name in FRACTION_VARIABLES:
        assert memory_variables(0.5, {name: ".1"}) == {}
    assert memory_variables(0.5, {FRACTION_VARIABLES[1]: ""}) == {FRACTION_VARIABLES[0]: "0.375"}
