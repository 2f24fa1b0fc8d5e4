import json

import pytest

from benchmarks.report import Spread, print_table, write_json
from flaxres.errors import UserError


def test_spread_has_median_and_quartiles():
    spread = Spread.from_values([4.0, 1.0, 2.0, 3.0, 100.0])
    assert spread == Spread(median=3.0, low=2.0, high=4.0)
    assert str(spread) == "3 (2 to 4)"
    assert str(Spread.from_values([12_345.6])) == "12,346 (12,346 to 12,346)"


def test_result_is_written_or_printed(tmp_path, capsys):
    path, expected = (
        tmp_path / "new" / "result.json",
        {"step": {"median": 1.0, "low": 0.5, "high": 2.0}},
    )
    result = {"step": Spread(1.0, 0.5, 2.0)}
    write_json(str(path), result)
    assert json.loads(path.read_text()) == expected
    assert capsys.readouterr().out == ""
    write_json(None, result)
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("width", [50, 200])
def test_a_table_has_all_of_its_text(width, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.report.FILE_WIDTH", width)
    rows = [("MB read and written a step", 12.5), ("layouts", "2.5 NHWC, " * 5 + 60 * "x")]
    print_table("resnet-8", ("", "value"), rows)
    text = capsys.readouterr().out
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "MB read and written a step" in text
    assert text.count("NHWC") == 5
    assert text.count("x") == 60


def test_result_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "result.json"):
        with pytest.raises(UserError, match="cannot be written"):
            write_json(str(path), {})
