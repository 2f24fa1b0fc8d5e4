import json

import numpy as np
import pytest

from flaxres.experiments.reporting.curves import (
    MAX_POINTS,
    MIN_POINTS,
    CurveTable,
    points_per_curve,
    reduce_curve,
    round_digits,
)
from flaxres.experiments.reporting.page_data import as_script_json, page_data
from flaxres.experiments.reporting.run_status import read_status
from flaxres.run.records import MetricColumns
from tests.experiments.results.test_runs import write_run


def test_short_curves_stay_as_they_are():
    steps, values = np.array([1, 5, 9]), np.array([3.0, 1.0, 2.0])
    curve = reduce_curve(steps, values, 4)
    assert curve.is_complete
    assert curve.steps is steps
    assert curve.values is values


@pytest.mark.parametrize(("num_points", "max_points"), [(1_000, 100), (1_001, 60), (61, 60)])
def test_reduced_curves_keep_extremes_and_means(num_points, max_points):
    random = np.random.default_rng(0)
    steps = np.cumsum(random.integers(1, 5, num_points))
    values = random.normal(size=num_points)
    curve = reduce_curve(steps, values, max_points)
    assert max_points / 3 < len(curve.steps) <= max_points
    assert np.all(np.diff(curve.steps) > 0)
    assert (curve.steps[0], curve.steps[-1]) == (steps[0], steps[-1])
    points = dict(zip(steps.tolist(), values.tolist(), strict=True))
    assert all(points[s] == v for s, v in zip(curve.steps.tolist(), curve.values, strict=True))
    # Each part of equally many records keeps its smallest and largest value, and its mean.
    size = -(-num_points // (max_points // 2 - 1))
    for i, (mean_step, mean) in enumerate(zip(curve.mean_steps, curve.mean_values, strict=True)):
        part = slice(i * size, (i + 1) * size)
        assert {values[part].min(), values[part].max()} <= set(curve.values)
        assert values[part].mean() == pytest.approx(mean)
        assert steps[part].mean() == pytest.approx(mean_step, abs=1)
    assert {values.min(), values.max()} <= set(curve.values)


def test_points_of_a_curve_depend_on_the_number_of_curves():
    assert points_per_curve(0) == points_per_curve(7) == MAX_POINTS
    assert MIN_POINTS < points_per_curve(1_000) < MAX_POINTS
    assert points_per_curve(10**6) == MIN_POINTS


def test_rounding_keeps_five_digits():
    values = np.array([0.0, 12.345678, -0.000123456, 98765.4321, 1234567.8])
    expected = [float(f"{value:.5g}") for value in values[:4]] + [1234568.0]
    assert round_digits(values) == expected


def test_steps_are_stored_once_as_differences():
    table = CurveTable(100)
    values = {"a": np.array([1.0, np.nan, 3.0]), "b": np.array([4.0, 5.0, 6.0])}
    run = MetricColumns(np.array([10, 20, 40]), values | {"c": np.full(3, np.nan)})
    assert table.add(run) == {"a": [0, [1.0, 3.0]], "b": [1, [4.0, 5.0, 6.0]]}
    assert table.add(run) == {"a": [0, [1.0, 3.0]], "b": [1, [4.0, 5.0, 6.0]]}
    assert table.steps == [[10, 30], [10, 10, 20]]


def test_page_data_equal_the_files_of_the_runs(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20", 3)
    (tmp_path / "sweep.json").write_text(json.dumps({"net<script>/seed-0": {"num_steps": 30}}))
    text = as_script_json(page_data(read_status(tmp_path)))
    assert not set("<>&") & set(text)
    data = json.loads(text)
    runs = {run["name"]: run for run in data["runs"]}
    assert runs["net<script>/seed-0"]["curves"] == {}
    for name in ("plain-20/seed-0", "resnet-20/seed-3"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for metric, (index, values) in runs[name]["curves"].items():
            recorded = [record for record in records if metric in record]
            assert np.cumsum(data["steps"][index]).tolist() == [r["step"] for r in recorded]
            assert values == [r[metric] for r in recorded]
    seeds = [run["fields"][data["fields"].index("seed")] for run in data["runs"]]
    assert seeds == ["0", "3", "0"]
