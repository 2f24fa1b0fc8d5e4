import csv
import json

import pytest

from flaxres.experiments.results.runs import find_runs, read_pytorch_runs, read_runs
from flaxres.experiments.results.tables import (
    as_cells,
    as_markdown,
    result_rows,
    write_runs,
    write_tables,
)
from tests.experiments.results.test_runs import write_run


def test_final_errors_are_those_of_the_last_step_not_the_best(tmp_path):
    write_run(tmp_path, "plain-20", errors=(50.0, 2.0, 12.5))
    (row,) = result_rows(find_runs(tmp_path))
    assert (row["train_error"], row["test_error"]) == (12.5, 13.5)
    assert (row["net"], row["params"], row["seeds"]) == ("plain-20", 1020, 1)
    assert "paper_test_error" not in row


def test_mean_and_std_over_finished_seeds(tmp_path):
    write_run(tmp_path, "resnet-20", 0, (5.0, 5.0, 1.0), "cifar10_jpeg")
    write_run(tmp_path, "resnet-20", 1, (5.0, 5.0, 3.0), "cifar10_jpeg")
    write_run(tmp_path, "resnet-20", 2, (90.0,), "cifar10_jpeg")
    write_run(tmp_path, "resnet-56", 0, (90.0,), "cifar10_jpeg")
    first, second = result_rows(find_runs(tmp_path))
    assert first["seeds"] == 2
    assert first["train_error"] == 2.0
    assert first["train_error_std"] == pytest.approx(2**0.5)
    assert (first["paper_test_error"], second["paper_test_error"]) == (8.75, 6.97)
    assert (second["steps"], second["num_steps"]) == (10, 30)
    assert as_markdown([first, second]).splitlines() == [
        "| model | params | steps | final training error % | final test error % "
        "| He et al. 2015, original images, 64,000 steps: test error % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| resnet-20 | 1,020 | 30 | 2.00 ± 1.41 (2 of 3 seeds) "
        "| 3.00 ± 1.41 (2 of 3 seeds) | 8.75 |",
        "| resnet-56 | 1,056 | 10 of 30 (unfinished) | latest: 90.00 | latest: 91.00 | 6.97 |",
    ]


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [("cifar100", ()), ("cifar10_corrupted", ()), ("digits", ()), ("cifar10", ("cat", "dog"))],
)
def test_only_the_whole_cifar10_test_set_is_compared_with_the_paper(tmp_path, dataset, classes):
    write_run(tmp_path, "resnet-20", dataset=dataset, classes=classes)
    assert "paper_test_error" not in result_rows(find_runs(tmp_path))[0]


@pytest.mark.parametrize("first", ["plain-20", "resnet-20"])
def test_only_cifar10_rows_have_an_error_of_the_paper(tmp_path, first):
    for model in ("plain-20", "resnet-20"):
        write_run(tmp_path, model, dataset="digits" if model == first else "cifar10")
    header, *body = as_cells(result_rows(find_runs(tmp_path)))
    assert header[-1] == "He et al. 2015, original images, 64,000 steps: test error %"
    paper_errors = {cells[0]: cells[-1] for cells in body}
    assert paper_errors == {"plain-20": "", "resnet-20": "8.75" if first == "plain-20" else ""}


def test_table_files(tmp_path):
    write_run(tmp_path, "plain-20")
    runs = find_runs(tmp_path)
    files = write_tables(read_runs(tmp_path), tmp_path)
    assert [file.name for file in files] == ["table.md", "table.csv"]
    assert files[0].read_text() == as_markdown(result_rows(runs))
    with files[1].open() as file:
        (row,) = csv.DictReader(file)
    assert (row["net"], float(row["test_error"])) == ("plain-20", 13.5)


def test_tables_of_an_incomplete_sweep(tmp_path):
    write_run(tmp_path, "plain-20", 0)
    write_run(tmp_path, "plain-20", 1, errors=(40.0,))
    fields = {"seed": 7, "model.depth": 56}
    names = ("plain-20/seed-0", "plain-20/seed-1", "plain-20/seed-2", "resnet-56/seed-7")
    (tmp_path / "sweep.json").write_text(json.dumps(dict.fromkeys(names, fields)))
    table = write_tables(read_runs(tmp_path), tmp_path)[0].read_text().splitlines()
    assert table[2:] == [
        "| plain-20 | 1,020 | 30 | 12.50 (1 of 3 seeds) | 13.50 (1 of 3 seeds) |",
        "| resnet-56 |  | not begun |  |  |",
    ]
    with write_runs(read_runs(tmp_path), tmp_path).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["state"], row["step"]) for row in rows] == [
        ("plain-20/seed-0", "finished", "30"),
        ("plain-20/seed-1", "unfinished", "10"),
        ("plain-20/seed-2", "not begun", "0"),
        ("resnet-56/seed-7", "not begun", "0"),
    ]
    first, *_, last = rows
    assert float(first["final_test_error"]) == 13.5
    assert float(first["train_seconds"]) == pytest.approx(6.0)
    assert first["best_step"] == ""
    assert (first["config.dataset.name"], last["config.model.depth"]) == ("digits", "56")


def test_best_step_has_the_lowest_validation_error(tmp_path):
    write_run(tmp_path, "plain-20", errors=())
    # The lowest test error is at step 30, the lowest validation error at 20.
    errors = ((10, 30.0, 40.0), (20, 20.0, 28.0), (30, 22.0, 25.0))
    lines = [
        {"step": s, "train_error": 1.0, "validation_error": v, "test_error": t}
        | {"images_per_second": 1.0}
        for s, v, t in errors
    ]
    metrics = tmp_path / "plain-20/seed-0/metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with write_runs(read_runs(tmp_path), tmp_path).open() as file:
        (row,) = csv.DictReader(file)
    best = [float(row[f]) for f in ("best_step", "best_validation_error", "test_error_at_best")]
    assert best == [20, 20.0, 28.0]
    assert float(row["final_test_error"]) == 25.0


def test_pytorch_runs_times_and_settings(tmp_path):
    for seed, error in enumerate((1.0, 3.0)):
        write_run(tmp_path, "resnet-20", seed, (5.0, error), "cifar10_jpeg", num_steps=20)
        write_run(tmp_path / "pytorch", "resnet-20", seed, (5.0, error + 1), num_steps=20)
    write_run(tmp_path / "pytorch", "resnet-20", 2, (9.0,), num_steps=20)  # unfinished
    write_run(tmp_path, "plain-20", 0, (5.0, 4.0), "cifar10_jpeg", num_steps=20)
    files = write_tables(
        read_runs(tmp_path), tmp_path, read_pytorch_runs(tmp_path / "pytorch"), details=True
    )
    header, _, plain, residual, *lines = files[0].read_text().splitlines()
    _, settings, _, pytorch, _, left_out = lines
    assert "PyTorch, same data: test error %" in header
    assert "| 3.00 ± 1.41 (2 seeds) | 4.00 ± 1.41 (2 seeds) | 8.75 |" in residual
    assert "| 5.00 |  |  |" in plain
    # 20 steps of 128 images at 640 images/s
    assert residual.endswith("| 0.1 | ? |")
    rest = "20 steps of 128 images, float32; weight decay on all parameters; batch norm over the "
    assert settings == f"cifar10_jpeg, {rest}whole batch"
    assert pytorch == f"PyTorch: digits, {rest}whole batch"
    assert left_out == "pytorch/resnet-20/seed-2 is left out: unfinished: step 10 of 20"


def test_settings_of_pytorch_are_told_only_if_they_differ(tmp_path):
    for directory in (tmp_path, tmp_path / "pytorch"):
        write_run(directory, "resnet-20")
    pytorch = read_pytorch_runs(tmp_path / "pytorch")
    table, _ = write_tables(read_runs(tmp_path), tmp_path, pytorch, details=True)
    assert "PyTorch: " not in table.read_text()


def test_damaged_runs_in_pytorch_hide_no_other_runs(tmp_path):
    for directory in (tmp_path, tmp_path / "pytorch"):
        write_run(directory, "resnet-20")
    (tmp_path / "pytorch/resnet-20/seed-0/config.json").write_text("{")
    pytorch = read_pytorch_runs(tmp_path / "pytorch")
    table, _ = write_tables(read_runs(tmp_path), tmp_path, pytorch)
    assert "| 12.50 | 13.50 |" in table.read_text()
    assert "pytorch/resnet-20/seed-0 is left out: " in table.read_text()
