"""Fields of optimizers and schedules that do not go together are refused in one line."""

import pytest

from flaxres.config import check_config, default_config
from flaxres.errors import ConfigError

WSD = {"schedule": "wsd", "cooldown_steps": 100}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, lars, lamb, got 'adam'"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov must be False .* sgd or lars, got Tr"),
        ({"optimizer": "lamb", "momentum": 0.5}, "momentum must be 0.9 .* is sgd or lars, got 0.5"),
        ({"adam.beta2": 0.95}, "adam.beta2 must be 0.999 .* optimizer is adamw or lamb, got 0.95"),
        ({"optimizer": "adamw", "adam.beta1": 0.99999999}, "beta1 must be from 0 to 0.9999999"),
        ({"optimizer": "adamw", "adam.epsilon": 1e-46}, "adam.epsilon must be at least 1e-30, got"),
        ({"trust_ratio.coefficient": 0.1}, "coefficient must be 0.001 .* optimizer is lars, got"),
        ({"optimizer": "lars", "trust_ratio.parameters": "norms"}, "one of all, kernels, got"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov must be False if momentum is 0"),
        ({"clip_norm": -1.0}, "clip_norm must be 0 or more, got -1.0"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, got 1.5"),
        ({"final_learning_rate": 0.01}, "final_learning_rate must be 0.0 .* schedule is cosine or"),
        (
            {"schedule": "cosine", "final_learning_rate": 0.2},
            r"final_learning_rate must be from 0 to learning_rate \(0.1\), got 0.2",
        ),
        (
            {"schedule": "cosine", "polynomial_power": 1.0},
            "power must be 2.0 .* is polynomial, got",
        ),
        ({"schedule": "polynomial", "polynomial_power": 0.0}, "polynomial_power must be above 0"),
        ({"cooldown_steps": 5}, "cooldown_steps must be 0 .* unless schedule is wsd, got 5"),
        ({"schedule": "wsd"}, "cooldown_steps must be from 1 to the 64000 steps after the warm-up"),
        (WSD | {"num_steps": 105, "linear_warmup_steps": 10}, "cooldown_steps must be from 1 to"),
        (WSD | {"cooldown_shape": "cosine"}, "cooldown_shape must be one of 1-sqrt, linear, got"),
        (
            {"schedule": "one-cycle", "linear_warmup_steps": 10},
            "linear_warmup_steps must be 0 with schedule one-cycle, which begins with a rise",
        ),
        ({"schedule": "one-cycle", "warmup.enabled": True}, "warmup.enabled must be False with"),
        ({"schedule": "one-cycle", "one_cycle.rise_fraction": 1.0}, "rise_fraction must be above"),
    ],
)
def test_combinations_that_are_refused(fields, message):
    config = default_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message) as raised:
        check_config(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adamw", "clip_norm": 1.0, "layer_decay": 0.7, "adam.beta2": 0.95},
        {"optimizer": "lars", "nesterov": True, "schedule": "polynomial", "momentum": 0.8},
        {"optimizer": "lamb", "trust_ratio.parameters": "all", "schedule": "one-cycle"},
        WSD | {"cooldown_shape": "linear", "final_learning_rate": 0.1, "warmup.enabled": True},
    ],
)
def test_combinations_that_are_accepted(fields):
    config = default_config()
    config.update_from_flattened_dict(fields)
    check_config(config)
