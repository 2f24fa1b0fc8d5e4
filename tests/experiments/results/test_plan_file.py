import json

import pytest

from flaxres.config import default_config, flatten
from flaxres.errors import DamagedFileError
from flaxres.experiments.results.plan_file import planned_runs, read_plan

DEFAULTS = flatten(default_config())


def test_missing_fields_get_their_defaults(tmp_path):
    assert planned_runs(tmp_path) == {}
    plan = {"plain-20/seed-0": {"model.depth": 20}, "plain-20/seed-1": {"seed": 1}}
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    planned = planned_runs(tmp_path)
    assert list(planned) == ["plain-20/seed-0", "plain-20/seed-1"]
    assert planned["plain-20/seed-0"] == DEFAULTS | {"model.depth": 20}
    assert planned["plain-20/seed-1"] == DEFAULTS | {"seed": 1}


@pytest.mark.parametrize(("name", "entry"), [("../seed-0", {}), ("b/seed-0", {"seed": "x"})])
def test_a_damaged_entry_hides_no_other(tmp_path, name, entry):
    (tmp_path / "sweep.json").write_text(json.dumps({name: entry, "plain-20/seed-0": {}}))
    planned, damaged = read_plan(tmp_path)
    assert list(planned) == ["plain-20/seed-0"]
    assert list(damaged) == [name]
    assert str(tmp_path / "sweep.json") in damaged[name]
    with pytest.raises(DamagedFileError, match=r"sweep\.json.*; restore or remove the file"):
        planned_runs(tmp_path)


def test_a_damaged_file_is_reported_by_its_name(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    planned, damaged = read_plan(tmp_path)
    assert (planned, list(damaged)) == ({}, ["sweep.json"])
