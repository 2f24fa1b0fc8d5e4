import pytest


@pytest.mark.parametrize(
    "program", ["flaxres.main", "benchmarks.parts", "flaxres.experiments.degradation"]
)
def test_help_lists_the_config(python, program):
    outcome = python("-m", program, "--help")
    assert "  --config=VALUE\n      Config file and model" in outcome.stdout
