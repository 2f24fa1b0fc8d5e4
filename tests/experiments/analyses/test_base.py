"""Selection of the runs of an analysis."""

import pytest

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.analyses.source_selection import select_sources
from flaxres.run.workdir import CONFIG_FILE


def test_patterns_also_apply_to_a_single_run(tmp_path):
    run = tmp_path / "resnet-8" / "seed-0"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).touch()
    for patterns in ((), ["resnet-8"], ["*/seed-0"]):
        assert select_sources(run, patterns=patterns) == [RunSource(run)]
    with pytest.raises(ConfigError, match=r"^--only=x does not match the run resnet-8/seed-0$"):
        select_sources(run, patterns=["resnet-8", "x"])
