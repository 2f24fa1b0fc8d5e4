import json

import pytest

from experiments.reporting.run_status import read_status
from experiments.reporting.tables import differing, results, runs, shared, short
from experiments.results.tables import as_cells
from tests.experiments.results.test_runs import write_run


def by_name(table):
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_results_are_those_of_the_table_where_all_is_finished(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(3.0, 2.0, 1.0))
    facts = read_status(tmp_path)
    table = results(facts)
    assert table.rows[0][1] == "2 of 2"
    without = [[c for i, c in enumerate(row) if i != 1] for row in (table.header, *table.rows)]
    assert without == as_cells(facts.results)
    assert table.states == ["finished"]


def test_unfinished_runs_are_never_averaged(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(99.0, 99.0))
    write_run(tmp_path, "plain-32", 0, errors=(80.0, 70.0))
    write_run(tmp_path, "plain-44", 0, errors=(80.0,))
    write_run(tmp_path, "plain-44", 1, errors=(80.0, 70.0))
    (tmp_path / "sweep.json").write_text(json.dumps({"plain-56/seed-0": {}}))
    table = results(read_status(tmp_path))
    errors = "final training error %", "final test error %"
    shown = {
        net: [row[h] for h in ("runs finished", "steps", *errors)]
        for net, row in by_name(table).items()
    }
    assert shown == {
        "plain-20": ["1 of 2", "30", "12.50 (1 of 2 seeds)", "13.50 (1 of 2 seeds)"],
        "plain-32": ["0 of 1, so far", "20 of 30", "70.00", "71.00"],
        "plain-44": ["0 of 2", "10 of 30", "", ""],
        "plain-56": ["0 of 1", "not begun", "", ""],
    }
    assert table.states == ["unfinished"] * 4


def test_runs_as_they_stand(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(50.0, 40.0))
    info = {"device": "H100", "devices": 2, "processes": 2, "jax": "0.1", "flaxres": "0.2"}
    info |= {"params": 1234567, "commit": 40 * "a" + "-dirty"}
    (tmp_path / "plain-20" / "seed-0" / "info.json").write_text(json.dumps(info))
    rows = by_name(runs(read_status(tmp_path)))
    assert rows["plain-20/seed-0"] == {
        "run": "plain-20/seed-0",
        "state": "finished",
        "step": "30",
        "training error %": "12.50",
        "test error %": "13.50",
        "training time, s": "6.0",  # 30 steps of 128 images at 640 images/s
        "images/s": "640",
        "params": "1,234,567",
        "device": "H100, 2 of them, 2 processes",
        "jax": "0.1",
        "flaxres": "0.2",
        "commit": "aaaaaaaaaa-dirty",
    }
    other = rows["plain-20/seed-1"]
    assert (other["state"], other["step"]) == ("unfinished", "20 of 30 (66%)")
    assert (other["training error %"], other["test error %"]) == ("40.00", "41.00")
    assert (other["device"], other["commit"]) == ("", "")  # of an older flaxres


def test_configs(tmp_path):
    write_run(tmp_path, "plain-20")
    assert differing(read_status(tmp_path)) is None
    write_run(tmp_path, "plain-32")
    facts = read_status(tmp_path)
    table = differing(facts)
    assert table.header == ["run", "model.depth"]
    assert table.rows == [["plain-20/seed-0", "20"], ["plain-32/seed-0", "32"]]
    values = dict(shared(facts).rows)
    assert (values["model.widths"], values["learning_rate"]) == ("(16, 32, 64)", "0.1")
    assert "model.depth" not in values


@pytest.mark.parametrize(
    ("commit", "expected"),
    [(40 * "b", 10 * "b"), (64 * "b" + "-dirty", 10 * "b" + "-dirty"), (None, "")],
)
def test_short_commits(commit, expected):
    assert short(commit) == expected
