import json

import pytest

from benchmarks.report import Spread, write_json
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


def test_result_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "result.json"):
        with pytest.raises(UserError, match="cannot be written"):
            write_json(str(path), {})
