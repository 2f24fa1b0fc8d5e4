"""CSV files, as pandas reads them without options."""

import shutil

import numpy as np
import pytest

from flaxres.experiments.results.csv_files import as_csv
from flaxres.experiments.results.runs import read_runs
from flaxres.experiments.results.tables import run_rows

pandas = pytest.importorskip("pandas", reason="pip install pandas")


def test_pandas_reads_types_and_missing_values(tmp_path):
    rows = [
        {"name": "a, b", "step": 64_000, "error": 12.27, "flip": True, "when": None, "std": 1e-9},
        {"name": "line\nbreak", "step": 0, "error": None, "flip": False, "when": None, "std": 2.0},
        {"name": "-x", "step": 7, "error": 100.0, "flip": True, "when": None, "std": -1.5},
    ]  # fmt: skip
    (tmp_path / "runs.csv").write_text(as_csv(rows))
    table = pandas.read_csv(tmp_path / "runs.csv")
    types = {name: table[name].dtype for name in ("step", "error", "flip", "std")}
    assert types == {"step": np.int64, "error": np.float64, "flip": np.bool_, "std": np.float64}
    assert table["error"].isna().tolist() == [False, True, False]
    assert table["when"].isna().all()
    assert table["name"].tolist() == ["a, b", "line\\nbreak", "'-x"]
    assert table["step"].tolist() == [64_000, 0, 7]


def test_pandas_reads_the_runs_of_a_sweep(tmp_path, digits_run):
    shutil.copytree(digits_run, tmp_path / "resnet-8" / "seed-0")
    collection = read_runs(tmp_path)
    (tmp_path / "runs.csv").write_text(as_csv(run_rows(collection.runs_by_variant, {})))
    (row,) = pandas.read_csv(tmp_path / "runs.csv").to_dict("records")
    assert (row["name"], row["step"], row["config.augment.flip"]) == ("resnet-8/seed-0", 20, False)
    assert (row["config.model.shortcut"], row["config.learning_rate"]) == ("A", 0.1)
    assert isinstance(row["final_test_error"], float)
    assert isinstance(row["params"], int)
