import types

import pytest

from flaxres.experiments.analyses import model_sources, progress


@pytest.mark.parametrize("shows_bar", [False, True])
def test_one_line_for_each_model_without_a_bar(capsys, monkeypatch, shows_bar):
    """A test has no terminal, so a bar is shown only in a notebook."""
    monkeypatch.setattr(progress, "in_notebook", lambda: shows_bar)
    times = iter([0.0, 61.2, 61.2, 3700.0, 3700.0])
    clock = types.SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr(model_sources, "time", clock)
    sources = [FakeSource("plain-20/seed-0"), FakeSource("plain-56/seed-0")]
    read = [value for _, value in model_sources.each_measured(sources, lambda source: source.name)]
    assert read == ["plain-20/seed-0", "plain-56/seed-0"]
    lines = [
        "plain-20/seed-0 (1 of 2): done in 0:01:01",
        "plain-56/seed-0 (2 of 2): done in 1:00:39",
    ]
    assert capsys.readouterr().err.splitlines() == ([] if shows_bar else lines)


class FakeSource:
    def __init__(self, name):
        self.name = name
