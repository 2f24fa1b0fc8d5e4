"""Checks of the fields of training recipes: one line with the field, its value and the rule."""

import pytest

from flaxres.config import check_config, default_config
from flaxres.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, got 0"),
        ({"accumulation_steps": 3}, r"accumulation_steps must be a divisor of batch_size \(128\)"),
        (
            {"accumulation_steps": 2, "log_layers_every": 5},
            "log_layers_every must be 0 if accumulation_steps is above 1, got 5",
        ),
        ({"sam_radius": -0.05}, "sam_radius must be 0 or more, got -0.05"),
        ({"ema_decay": 1.0}, "ema_decay must be from 0 to 0.9999999, got 1.0"),
        ({"ema_ramp": False}, "ema_ramp must be True .* unless ema_decay is above 0, got False"),
    ],
)
def test_refused_fields(fields, message):
    config = default_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_config(config)


def test_all_gradient_recipes_together():
    config = default_config()
    config.accumulation_steps, config.sam_radius, config.ema_decay = 4, 0.05, 0.999
    check_config(config)
