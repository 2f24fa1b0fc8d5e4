import math

import pytest

from flaxres.config import default_config
from flaxres.training.schedule_changes import first_changed_step


def changed_step(steps_done, fields):
    """Returns the first changed step if fields of a schedule with drops at 32k and 48k change."""
    old, new = default_config(), default_config()
    new.update_from_flattened_dict(fields)
    return first_changed_step(old, new, steps_done)


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({"num_steps": 128_000}, math.inf),
        ({"boundaries": (32_000, 48_000, 60_000)}, 60_000),
        ({"boundaries": (32_000,)}, 48_000),
        ({"boundaries": (16_000, 48_000)}, 16_000),
        ({"decay_factor": 0.5}, 32_000),
        ({"learning_rate": 0.05}, 0),
        ({"linear_warmup_steps": 1}, math.inf),  # its only step has the full learning rate
        ({"linear_warmup_steps": 2}, 0),
        ({"warmup.learning_rate": 0.5, "warmup.window": 1}, math.inf),  # it is not enabled
    ],
)
def test_piecewise_constant_schedules(fields, step):
    assert changed_step(64_000, fields) == (None if step == math.inf else step)
    if 0 < step < math.inf:
        assert changed_step(step, fields) is None
        assert changed_step(step + 1, fields) == step


def test_cosine_schedules_depend_on_their_length():
    old, new = default_config(), default_config()
    old.schedule = new.schedule = "cosine"
    new.num_steps = 128_000
    step = first_changed_step(old, new, 64_000)

    def rate(step, num_steps):
        return 0.05 * (1 + math.cos(math.pi * step / num_steps))

    # Float32 does not resolve the difference of the first steps.
    assert 0 < step < 100
    assert rate(step, 64_000) == pytest.approx(rate(step, 128_000), rel=1e-5)
    assert changed_step(64_000, {"schedule": "cosine"}) < 100


def test_the_stable_phase_of_wsd_can_be_extended():
    """A longer run agrees with the shorter one up to its cooldown: a resume starts before it."""
    old, longer = default_config(), default_config()
    for config in (old, longer):
        fields = {"schedule": "wsd", "cooldown_steps": 10_000, "linear_warmup_steps": 1_000}
        config.update(fields)
    longer.num_steps = 128_000
    assert first_changed_step(old, longer, 54_001) is None  # its last step has the full rate
    assert first_changed_step(old, longer, 54_002) == 54_001
    longer.cooldown_shape = "linear"
    assert first_changed_step(old, longer, 54_001) is None
    longer.linear_warmup_steps = 2_000
    assert first_changed_step(old, longer, 54_001) == 0


def test_a_constant_learning_rate_can_be_cooled_down():
    old, new = default_config(), default_config()
    old.boundaries = ()
    new.update({"schedule": "wsd", "num_steps": 74_000, "cooldown_steps": 10_000})
    assert first_changed_step(old, new, 64_000) is None
    new.one_cycle.rise_fraction = 0.2  # not read
    assert first_changed_step(old, new, 64_000) is None
    new.schedule = "one-cycle"
    assert first_changed_step(old, new, 64_000) == 0


def test_warmups():
    def changed(steps_done, field, value):
        old, new = default_config(), default_config()
        old.warmup.enabled = new.warmup.enabled = True
        new.update_from_flattened_dict({field: value})
        return first_changed_step(old, new, steps_done)

    assert changed(1, "num_steps", 128_000) is None
    assert changed(1, "warmup.learning_rate", 0.02) == 0
    assert changed(1, "warmup.train_error", 70.0) == 0
    assert changed(3_999, "warmup.max_steps", 5_000) is None
    assert changed(4_000, "warmup.max_steps", 5_000) is not None
    assert changed(999, "warmup.max_steps", 1_000) is None
    assert changed(1_000, "warmup.max_steps", 1_000) is not None
