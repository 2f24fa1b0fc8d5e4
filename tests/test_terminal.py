import io

import pytest
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from flaxres.terminal import make_progress_bar, print_table


@pytest.fixture
def table():
    table = Table("name", "value")
    table.add_row("x" * 150, "[bold]1[/bold]")
    return table


def test_tables_in_a_pipe_are_not_cut_off(table, capsys):
    print_table(table, "y" * 200, "a last line")
    lines = capsys.readouterr().out.splitlines()
    assert "x" * 150 in lines[3]
    assert "[bold]1[/bold]" in lines[3]  # no markup
    assert lines[-2:] == ["y" * 200, "a last line"]


def test_narrow_tables_in_a_pipe_are_not_padded(capsys):
    table = Table("name")
    table.add_row("resnet-20")
    print_table(table)
    widths = {len(line) for line in capsys.readouterr().out.splitlines()}
    assert widths == {len("| resnet-20 |")}


@pytest.mark.parametrize(
    ("is_terminal", "disable", "is_drawn"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_progress_bars_are_drawn_only_on_terminals(is_terminal, disable, is_drawn):
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    bar = make_progress_bar(MofNCompleteColumn(), console=console, disable=disable)
    with bar:
        bar.update(bar.add_task("training", total=5), completed=2)
    output = console.file.getvalue()
    assert ("training" in output) == ("2/5" in output) == ("ETA" in output) == is_drawn


def test_names_with_brackets_are_not_markup():
    console = Console(file=io.StringIO(), force_terminal=True, markup=False)
    with make_progress_bar(console=console) as bar:
        bar.add_task("reading [red]x[/red]", total=5)
    assert "reading [red]x[/red]" in console.file.getvalue()


def test_control_characters_of_names_are_escaped(capsys):
    table = Table("name", title="in a\x1b[31m")
    table.add_row("tabby\u2028cat\x1b[2J")
    print_table(table, "one\x07line")
    out = capsys.readouterr().out
    for text in (r"in a\x1b[31m", r"tabby\u2028cat\x1b[2J", r"one\x07line"):
        assert text in out
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    console = Console(file=io.StringIO(), force_terminal=True)
    with make_progress_bar(console=console) as bar:
        bar.add_task("reading a\u2028b", total=5)
    assert r"reading a\u2028b" in console.file.getvalue()
