"""Training of 110 layers without normalization, on the digits."""

import pytest

from flaxres.config import check_config
from flaxres.configs import digits
from flaxres.errors import DivergedError
from flaxres.training.train import train_and_evaluate

TENTH = {"scalar_learning_rate_scale": 0.1}


def digits_config(name, fields):
    config = digits.get_config(name)
    config.update_from_flattened_dict(fields)
    config.num_devices = 1
    check_config(config)
    return config


@pytest.mark.parametrize(
    ("name", "fields"), [("skipinit-110", TENTH), ("fixup-110", {}), ("rezero-110", {})]
)
def test_110_layers_train(tmp_path, name, fields):
    config = digits_config(name, fields | {"num_steps": 160, "boundaries": (120, 140)})
    record = train_and_evaluate(config, tmp_path / "run")
    assert record["train_error"] < 4  # measured after 150 of 300 steps: 0.0, 1.2 and 0.0


def test_110_layers_with_the_usual_initialization_diverge(tmp_path):
    fields = {"model.norm": "none", "warmup.enabled": False, "eval_every": 100}
    config = digits_config("resnet-110", fields)
    with pytest.raises(DivergedError, match="training diverged"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_shallow_model_resumes(tmp_path):
    """A run in two parts ends as one in a single part, bit for bit."""
    config = digits_config(
        "fixup-8",
        TENTH | {"model.widths": (4, 8, 8), "num_steps": 20, "log_every": 5, "eval_every": 10},
    )
    config.boundaries, config.checkpoint_every, config.batch_size = (), 10, 32
    whole = train_and_evaluate(config, tmp_path / "whole")
    for config.num_steps in (10, 20):
        resumed = train_and_evaluate(config, tmp_path / "parts")
    assert whole["train_loss"] == resumed["train_loss"]
    assert whole["test_loss"] == resumed["test_loss"]
