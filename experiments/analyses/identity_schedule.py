"""Lengths and learning rates of the runs of the identity analysis, given by its flags."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from flaxres.config import check_config
from flaxres.errors import ConfigError

# Numbers of records, evaluations and checkpoints to which a shortened run is limited.
MAX_EVENTS = {"log_every": 50, "eval_every": 8, "checkpoint_every": 10}
NO_BOUNDARIES = "none"  # value of --boundaries for a constant learning rate
SCALED_FIELDS = ("linear_warmup_steps", "cooldown_steps", *MAX_EVENTS)


def parse_learning_rate_factors(values: Sequence[str]) -> list[float]:
    """Parses the values of --learning_rate_factors.

    Raises:
      ConfigError: a value is not a positive number, or there is none.
    """
    try:
        factors = [float(value) for value in values]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < float("inf") for factor in factors):
        raise ConfigError(
            f"--learning_rate_factors must be positive numbers, got {','.join(values)!r}"
        )
    return factors


def parse_boundaries(values: Sequence[str] | None) -> tuple[int, ...] | None:
    """Parses the values of --boundaries: steps, or 'none'. Returns None without the flag.

    Raises:
      ConfigError: a value is not an integer.
    """
    if values is None or values == [NO_BOUNDARIES]:
        return None if values is None else ()
    try:
        return tuple(int(value) for value in values)
    except ValueError:
        raise ConfigError(
            f"--boundaries must be steps, e.g. 500,750, or {NO_BOUNDARIES}, got "
            f"{','.join(values)!r}"
        ) from None


def with_length(
    config: ConfigDict, num_steps: int | None, boundaries: tuple[int, ...] | None
) -> ConfigDict:
    """Returns a config with another number of steps, whose other durations are scaled with it.

    A shortened run has at most as many records, evaluations and checkpoints as `MAX_EVENTS` allows,
    because an evaluation may take as long as many steps.

    Args:
      config: config of a run.
      num_steps: number of steps; None for that of the config.
      boundaries: steps at which the learning rate drops; None for scaled boundaries.

    Raises:
      ConfigError: the result is not a valid config.
    """
    if num_steps is None and boundaries is None:
        return config
    config = config.copy_and_resolve_references()
    if num_steps is not None:
        fraction = num_steps / config.num_steps
        for field in SCALED_FIELDS:
            steps = config[field]
            limit = num_steps // MAX_EVENTS[field] if field in MAX_EVENTS else 1
            config[field] = max(round(steps * fraction), min(steps, limit), min(steps, 1))
        scaled = {round(boundary * fraction) for boundary in config.boundaries}
        config.boundaries = tuple(sorted(b for b in scaled if 0 < b < num_steps))
        config.num_steps = num_steps
    if boundaries is not None:
        if config.schedule != "piecewise-constant":
            raise ConfigError(
                f"--boundaries requires schedule piecewise-constant, got {config.schedule}"
            )
        if boundaries and max(boundaries) >= config.num_steps:
            raise ConfigError(
                f"--boundaries must be below the number of steps ({config.num_steps:,}), got "
                f"{','.join(map(str, boundaries))}"
            )
        config.boundaries = boundaries
    check_config(config)
    return config
