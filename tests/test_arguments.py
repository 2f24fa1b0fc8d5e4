"""Arguments of a command line: the last override of a field wins."""

import pytest

from flaxres.arguments import drop_repeated_overrides
from tests.commands import assert_error, run_command


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--config.a=(3,) --x --config.a=(6,9)", "--x --config.a=(6,9)"),
        ("--config.a (3,) -config.a=4 --config.b=1", "-config.a=4 --config.b=1"),
        ("--config.a=1 --config.b -1 --config.a 2 --config.b -2", "--config.a 2 --config.b -2"),
        ("--config.a --noconfig.a --config.a", "--noconfig.a --config.a"),
        ("--config=f --config=g --config.a.b=1 --config.a=1",
         "--config=f --config=g --config.a.b=1 --config.a=1"),
        ("--config.a=1 -- --config.a=2", "--config.a=1 -- --config.a=2"),
        ("--config.a", "--config.a"),
    ],
)  # fmt: skip
def test_the_last_override_wins(given, expected):
    assert drop_repeated_overrides(given.split()) == expected.split()


def test_a_tuple_is_replaced(tmp_path):
    (tmp_path / "flags").write_text("--config.boundaries=(1,2,3)\n")
    overrides = (
        *(f"--flagfile={tmp_path / 'flags'}", "--config.boundaries=(4,)"),
        *("--config.boundaries", "(9,9)"),
    )
    for program in (
        ("flaxres.main", "--config=configs/digits.py:resnet-8"),
        ("flaxres.experiments.sweep", "--sweep=configs/sweeps/widths.py"),
    ):
        outcome = run_command(*program, *overrides, f"--workdir={tmp_path / 'run'}")
        assert_error(outcome, "boundaries must be rising numbers of steps, got [9, 9]", code=2)
