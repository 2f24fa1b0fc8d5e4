"""Lengths of the runs of the identity analysis."""

import pytest

from flaxres.config import flatten
from flaxres.configs import cifar10
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.identity_schedule import parse_boundaries, with_length


def changed_fields(**arguments):
    """Returns the fields that `with_length` changes in the paper's config."""
    config = cifar10.get_config("plain-56")
    before, after = flatten(config), flatten(with_length(config, **arguments))
    return {field: after[field] for field in after if after[field] != before[field]}


def test_durations_are_scaled_with_the_number_of_steps():
    assert changed_fields(num_steps=None, boundaries=None) == {}
    assert changed_fields(num_steps=1000, boundaries=None) == {
        **{"num_steps": 1000, "boundaries": [500, 750]},
        **{"log_every": 20, "eval_every": 125, "checkpoint_every": 100},
    }
    assert changed_fields(num_steps=128_000, boundaries=None) == {
        **{"num_steps": 128_000, "boundaries": [64_000, 96_000]},
        **{"log_every": 200, "eval_every": 2000, "checkpoint_every": 2000},
    }


def test_boundaries_of_short_runs():
    changed = changed_fields(num_steps=1, boundaries=None)
    assert changed["boundaries"] == []
    assert {changed[f"{event}_every"] for event in ("log", "eval", "checkpoint")} == {1}
    assert changed_fields(num_steps=None, boundaries=()) == {"boundaries": []}
    assert changed_fields(num_steps=900, boundaries=(300,))["boundaries"] == [300]
    assert (parse_boundaries(None), parse_boundaries(["none"])) == (None, ())
    assert parse_boundaries(["10", "20"]) == (10, 20)


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ((900,), r"--boundaries must be below the number of steps \(900\), got 900"),
        ((5, 3), "boundaries must be rising numbers of steps"),
    ],
)
def test_wrong_boundaries(boundaries, message):
    with pytest.raises(ConfigError, match=message):
        changed_fields(num_steps=900, boundaries=boundaries)
    with pytest.raises(ConfigError, match=r"--boundaries must be steps, .*, got 'x,1'"):
        parse_boundaries(["x", "1"])
    with pytest.raises(ConfigError, match="or none, got ''"):
        parse_boundaries([""])


def test_boundaries_need_a_schedule_that_has_them():
    config = cifar10.get_config("plain-56")
    config.schedule = "cosine"
    with pytest.raises(ConfigError, match="--boundaries requires schedule piecewise-constant, got"):
        with_length(config, None, ())
