"""Analyses from Python."""

import shutil

import numpy as np
import pytest

import flaxres
from flaxres.errors import ArgumentError, ConfigError
from flaxres.run.records import read_metrics


def test_blocks_of_a_run(digits_run, tmp_path):
    result = flaxres.analyze("blocks", digits_run, output=tmp_path, trials=1)
    assert [file.name for file in result.figures] == ["blocks.png"]
    assert result.figures[0].stat().st_size > 10_000
    table = result.table()
    whole = table[(table["kind"] == "dropped") & (table["number"] == 0)]
    logged = read_metrics(digits_run)[-1]["test_error"]
    assert whole["error"].tolist() == pytest.approx([logged], abs=1e-3)
    with pytest.raises(ArgumentError, match="has no table 'block', only blocks; did you mean"):
        result.table("block")


def test_names_of_tables_and_metrics_are_text(digits_run, unchecked_types):
    with pytest.raises(ArgumentError, match="name must be the name of a CSV file without its suff"):
        flaxres.AnalysisResult("blocks", ()).table(["blocks"])
    with pytest.raises(ArgumentError, match="name must be the name of a metric, such as 'test_err"):
        flaxres.load_run(digits_run).curve(["test_error"])


def test_one_pattern_is_text(digits_run, tmp_path):
    with pytest.raises(ConfigError, match=r"^--only=x\* does not match the run"):
        flaxres.analyze("blocks", digits_run, output=tmp_path, only="x*")


@pytest.mark.parametrize("name", ["responses", "gradients"])
def test_a_run_whose_name_has_a_line_separator(digits_run, tmp_path, name):
    for variant in ("resnet-8", "resnet\u2028eight"):
        shutil.copytree(digits_run, tmp_path / variant / "seed-0")
    table = flaxres.analyze(name, tmp_path, output=tmp_path / "results").table()
    assert set(table["run"]) == {"resnet-8/seed-0", r"resnet\u2028eight/seed-0"}


def test_weights_give_the_table_of_their_run(digits_run, tmp_path):
    path = tmp_path / "mine.safetensors"
    flaxres.load(digits_run).export(path)
    options = {"trials": 1, "images": 64}
    expected = flaxres.analyze("blocks", digits_run, output=tmp_path / "run", **options).table()
    options = {name: np.int64(value) for name, value in options.items()}
    table = flaxres.analyze("blocks", weights=[path], output=tmp_path / "file", **options).table()
    assert set(table.pop("run")) == {"resnet-8"}
    assert table.drop(columns="net").equals(expected.drop(columns=["run", "net"]))
    with pytest.raises(ArgumentError, match=r"^output is missing; weights have no directory"):
        flaxres.analyze("blocks", weights=path)
    with pytest.raises(ArgumentError, match=r"^workdir and weights are missing; give one of them"):
        flaxres.analyze("blocks", output=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("block", {}, ArgumentError, "must be one of responses, .*, got 'block'; did you mean"),
        ("identity", {}, ArgumentError, "identity trains models and is only a command: python -m"),
        ("blocks", {"trails": 1}, ArgumentError, "no option trails, only trials, .*did you mean"),
        ("responses", {"seed": 1}, ArgumentError, "the analysis responses has no options"),
        ("blocks", {"trials": 0}, ConfigError, "trials must be at least 1, got 0"),
        ("blocks", {"trials": "2"}, ConfigError, "trials must be an integer, got '2'"),
        ("landscape", {"kind": "plain"}, ConfigError, "kind must be one of line, plane, between"),
        ("batch_norm", {"split": "val"}, ConfigError, "split must be one of train, test"),
        ("blocks", {"only": ["x*"]}, ConfigError, "x\\*"),
    ],
)
def test_wrong_arguments(digits_run, tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        flaxres.analyze(name, digits_run, output=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
