import json

import pytest

from flaxres.experiments.reporting.report import write_report
from flaxres.experiments.reporting.run_status import read_status
from flaxres.experiments.reporting.tables import (
    config_changes_table,
    differing_fields_table,
    results_table,
    runs_table,
    shared_fields_table,
    short_commit,
)
from flaxres.experiments.results.tables import as_cells
from tests.experiments.results.test_runs import write_run


def rows_by_name(table):
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_results_of_finished_runs_equal_the_table_of_the_sweep(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(3.0, 2.0, 1.0))
    status = read_status(tmp_path)
    table = results_table(status)
    assert table.rows[0][1] == "2 of 2"
    other_cells = [[c for i, c in enumerate(row) if i != 1] for row in (table.header, *table.rows)]
    assert other_cells == as_cells(status.results)
    assert table.states == ["finished"]


def test_unfinished_runs_are_never_averaged(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(99.0, 99.0))
    write_run(tmp_path, "plain-32", 0, errors=(80.0, 70.0))
    write_run(tmp_path, "plain-44", 0, errors=(80.0,))
    write_run(tmp_path, "plain-44", 1, errors=(80.0, 70.0))
    (tmp_path / "sweep.json").write_text(json.dumps({"plain-56/seed-0": {}}))
    table = results_table(read_status(tmp_path))
    errors = "final training error %", "final test error %"
    cells = {
        name: [row[h] for h in ("runs finished", "steps", *errors)]
        for name, row in rows_by_name(table).items()
    }
    assert cells == {
        "plain-20": ["1 of 2", "30", "12.50 (1 of 2 seeds)", "13.50 (1 of 2 seeds)"],
        "plain-32": ["0 of 1", "20 of 30 (unfinished)", "latest: 70.00", "latest: 71.00"],
        "plain-44": ["0 of 2", "10 of 30 (unfinished)", "", ""],
        "plain-56": ["0 of 1", "not begun", "", ""],
    }
    assert table.states == ["unfinished"] * 4


def test_table_of_runs(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(50.0, 40.0))
    info = {"device": "H100", "devices": 2, "processes": 2, "jax": "0.1", "flaxres": "0.2"}
    info |= {"params": 1234567, "commit": 40 * "a" + "-dirty"}
    (tmp_path / "plain-20" / "seed-0" / "info.json").write_text(json.dumps(info))
    rows = rows_by_name(runs_table(read_status(tmp_path)))
    assert rows["plain-20/seed-0"] == {
        "run": "plain-20/seed-0",
        "state": "finished",
        "step": "30",
        "training error %": "12.50",
        "test error %": "13.50",
        "training time, s": "6.0",  # 30 steps of 128 images at 640 images/s
        "images/s": "640",
        "params": "1,234,567",
        "device": "H100, 2 devices, 2 processes",
        "jax": "0.1",
        "flaxres": "0.2",
        "commit": "aaaaaaaaaa-dirty",
    }
    other = rows["plain-20/seed-1"]
    assert (other["state"], other["step"]) == ("unfinished", "20 of 30 (66%)")
    assert (other["training error %"], other["test error %"]) == ("40.00", "41.00")
    assert (other["device"], other["commit"]) == ("", "")  # written by an older flaxres


def test_tables_of_config_fields(tmp_path):
    write_run(tmp_path, "plain-20")
    assert differing_fields_table(read_status(tmp_path)) is None
    write_run(tmp_path, "plain-32")
    status = read_status(tmp_path)
    table = differing_fields_table(status)
    assert table.header == ["run", "model.depth"]
    assert table.rows == [["plain-20/seed-0", "20"], ["plain-32/seed-0", "32"]]
    values = dict(shared_fields_table(status).rows)
    assert (values["model.widths"], values["learning_rate"]) == ("(16, 32, 64)", "0.1")
    assert "model.depth" not in values


def test_table_of_config_changes(tmp_path):
    write_run(tmp_path, "plain-20")
    assert config_changes_table(read_status(tmp_path)) is None
    change = {"step": 20, "time": "2026-11-27T03:00:00+00:00", "field": "boundaries"}
    change |= {"old": [10], "new": [10, 25], "same_learning_rates": True}
    other = change | {"field": "learning_rate", "old": 0.1, "new": 0.01}
    other["same_learning_rates"] = False
    file = tmp_path / "plain-20" / "seed-0" / "config_changes.jsonl"
    file.write_text(f"{json.dumps(change)}\n{json.dumps(other)}\n")
    table = config_changes_table(read_status(tmp_path))
    assert table.rows == [
        ["plain-20/seed-0", "20", "boundaries", "(10,)", "(10, 25)", "yes", change["time"]],
        ["plain-20/seed-0", "20", "learning_rate", "0.1", "0.01", "no", change["time"]],
    ]
    (html, _) = (path.read_text() for path in write_report(tmp_path))
    assert "Fields that changed when a run resumed" in html
    file.write_text("{}\n")
    assert config_changes_table(read_status(tmp_path)) is None  # a note is printed


@pytest.mark.parametrize(
    ("commit", "expected"),
    [(40 * "b", 10 * "b"), (64 * "b" + "-dirty", 10 * "b" + "-dirty"), (None, "")],
)
def test_short_commit(commit, expected):
    assert short_commit(commit) == expected
