"""Selection of the runs of an analysis."""

import pytest

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import select_run_directories
from flaxres.run.workdir import CONFIG_FILE


def test_patterns_also_apply_to_a_single_run(tmp_path):
    run = tmp_path / "resnet-8" / "seed-0"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).touch()
    for patterns in ((), ["resnet-8"], ["*/seed-0"]):
        assert select_run_directories(run, patterns) == [run]
    with pytest.raises(ConfigError, match=r"^--only=x does not match the run resnet-8/seed-0$"):
        select_run_directories(run, ["resnet-8", "x"])
