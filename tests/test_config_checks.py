"""Types and ranges of config fields; every value is accepted or refused in one line, quickly."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_dict

from flaxres.config import check_config, default_config, flatten
from flaxres.errors import ConfigError

DEFAULTS = flatten(default_config())


def with_field(field, value):
    """Returns the default config with a value that ConfigDict itself might refuse."""
    return with_fields({field: value})


def with_fields(values):
    config = default_config()
    for field, value in values.items():
        group, _, name = field.rpartition(".")
        parent = config[group] if group else config
        parent._fields[name] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def error_of(config):
    """Returns the message of `check_config`, or None if it accepts the config."""
    try:
        check_config(config)
    except ConfigError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 400
        return message
    return None


WRONG_TYPES = [
    ("batch_size", None, "batch_size must be an integer, got None"),
    ("batch_size", True, "batch_size must be an integer, got True"),
    ("batch_size", 128.0, "batch_size must be an integer, got 128.0"),
    ("batch_size", "128", "batch_size must be an integer, got '128'"),
    ("batch_size", np.int32(5), "batch_size must be an integer, got np.int32(5)"),
    ("batch_size", lambda: 1, "batch_size must be an integer, got <function"),
    ("batch_size", [128], "batch_size must be an integer, got [128]"),
    ("learning_rate", None, "learning_rate must be a number, got None"),
    ("learning_rate", "0.1", "learning_rate must be a number, got '0.1'"),
    ("learning_rate", True, "learning_rate must be a number, got True"),
    ("learning_rate", np.float32(0.1), "learning_rate must be a number, got np.float32(0.1)"),
    ("learning_rate", 0.1j, "learning_rate must be a number, got 0.1j"),
    ("nesterov", 1, "nesterov must be true or false, got 1"),
    ("nesterov", None, "nesterov must be true or false, got None"),
    ("nesterov", np.bool_(True), "nesterov must be true or false, got np.True_"),
    ("dtype", None, "dtype must be text, got None"),
    ("dtype", b"float32", "dtype must be text, got b'float32'"),
    ("init_from", 5, "init_from must be text or None, got 5"),
    ("init_from", " ", "init_from must be a file or a run directory, or None, got ' '"),
    ("dataset.data_dir", ("a",), "dataset.data_dir must be text or None, got ['a']"),
    ("dataset.name", "", "dataset.name must be text that is not empty, got ''"),
    ("dataset.name", "a\0b", "must be Unicode text of at most 4,096 characters without null"),
    ("dataset.data_dir", "a\0b", "must be Unicode text of at most 4,096 characters without null"),
    ("name", "\udcff", "name must be Unicode text of at most 4,096 characters"),
    ("model.widths", 16, "model.widths must be a tuple of integers, such as (1, 2)"),
    ("model.widths", None, "model.widths must be a tuple of integers"),
    ("model.widths", (16, True, 64), "model.widths must be a tuple of integers"),
    ("model.widths", ((16,), 32, 64), "model.widths must be a tuple of integers"),
    ("model.hidden", ("a",), "model.hidden must be a tuple of integers"),
    ("model.depth", None, "model.depth must be an integer, got None"),
    ("model.scan", 0, "model.scan must be true or false, got 0"),
    ("dataset.classes", "cat", "dataset.classes must be a tuple of names, such as ('a', 'b')"),
    ("dataset.classes", (1,), "dataset.classes must be a tuple of names"),
    ("transfer.image_std", ("0.2",), "transfer.image_std must be a tuple of numbers"),
    ("augment.area_range", (None, 1), "augment.area_range must be a tuple of numbers"),
    ("augment.color_eigenvalues", (1, 2, float("nan")), "must be a finite number below 3.4e38"),
    ("batch_size", {}, "config field 'batch_size' is missing"),
    ("batch_size", {"a": 1}, "unknown config field 'batch_size.a'"),
    ("model", 5, "unknown config field 'model'"),
]
TOO_LARGE = [
    ("learning_rate", float("nan"), "learning_rate must be a finite number below 3.4e38, got nan"),
    ("learning_rate", float("inf"), "learning_rate must be a finite number below 3.4e38, got inf"),
    ("learning_rate", 1e39, "learning_rate must be a finite number"),
    ("learning_rate", -0.0, "learning_rate must be above 0, got -0.0"),
    ("model.gate_bias", float("-inf"), "model.gate_bias must be a finite number"),
    ("model.shortcut_scale", float("nan"), "model.shortcut_scale must be a finite number"),
    ("dataset.device_gib", float("inf"), "dataset.device_gib must be a finite number"),
    ("weight_decay", 10**400, "weight_decay must be a finite number"),
    ("batch_size", 2**63, "batch_size must be an integer of 64 bits, got 9223372036854775808"),
    ("batch_size", 10**5000, "batch_size must be an integer of 64 bits, got int that cannot"),
    ("keep_checkpoints", 10**200, "got 1000000000"),
    ("num_steps", 2**31, "num_steps must be at most 2**31 - 1, got 2147483648"),
    ("log_every", 10**12, "log_every must be at most 2**31 - 1"),
    ("seed", 2**31, "seed must be from 0 to 2**31 - 1"),
    ("num_replicas", 2**31 + 1, "num_replicas must be small enough for seeds below 2**31"),
    ("model.depth", 60_000_002, "model.depth must be at most 100,000, got 60000002"),
    ("dataset.image_size", 100_000, "dataset.image_size must be from 0 to 65,535 pixels"),
    ("dataset.eval_short_side", 10**6, "dataset.eval_short_side must be from 0 to 65,535 pixels"),
    ("augment.pad", 10**9, "augment.pad must be from 0 to 65,535 pixels"),
    ("augment.short_side_range", (256, 10**6), "augment.short_side_range must be two rising"),
    ("boundaries", tuple(range(1, 1_000_001)), "boundaries must be a tuple of integers"),
    ("boundaries", tuple(range(1, 50_001)), "boundaries must be at most 1,000 numbers of steps"),
    ("boundaries", (2**40,), "boundaries must be rising numbers of steps"),
    ("model.widths", (16, 32, 2**64), "model.widths must be an integer of 64 bits"),
    ("dataset.classes", ("a",) * 200_000, "at most 100,000"),
    ("dataset.name", "x" * 10**6, "dataset.name must be Unicode text of at most 4,096"),
]


@pytest.mark.parametrize("cases", [WRONG_TYPES, TOO_LARGE], ids=["types", "sizes"])
def test_refused_values(cases):
    for field, value, message in cases:
        start = time.monotonic()
        error = error_of(with_field(field, value))
        assert error is not None, (field, message)
        assert message in error
        assert time.monotonic() - start < 2


def test_accepted_values():
    for field, value in [
        ("learning_rate", 1),
        ("augment.color", -0.0),
        ("weight_decay", 0),
        ("model.widths", [16, 32, 64]),
        ("boundaries", ()),
        ("log_every", 2**31 - 1),
        ("model.depth", 1202),
        ("dataset.data_dir", "/data/\u00fc"),
        ("eval_batch_size", 10**12),  # never more than a split has images
    ]:
        assert error_of(with_field(field, value)) is None, field


def test_a_field_that_a_config_file_requires_but_has_no_value():
    config = default_config()
    config.batch_size = config_dict.required_placeholder(int)
    assert "has no value" in error_of(config)


def test_elements_of_empty_tuples_have_a_type():
    """An empty default does not tell the type of the elements."""
    from flaxres.config_types import ELEMENT_TYPES

    empty = {field for field, value in DEFAULTS.items() if value == []}
    assert empty == set(ELEMENT_TYPES)


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e-320, -0.0, 1e308]),
    st.floats(),
)
VALUES = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.lists(st.one_of(NUMBERS, st.text(max_size=5), st.none()), max_size=6),
    st.lists(NUMBERS, max_size=10).map(tuple),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), NUMBERS, max_size=2),
)


@settings(
    max_examples=300,
    deadline=1_000,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), VALUES, min_size=1, max_size=3))
def test_any_value_is_accepted_or_refused_in_one_line(values):
    error_of(with_fields(values))
