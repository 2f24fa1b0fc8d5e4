import pytest

from flaxres.errors import ConfigError
from flaxres.field_checks import FieldChecker


@pytest.fixture
def checker():
    return FieldChecker({"model.depth": 19, "dtype": "float16"})


def test_allowed_values_pass(checker):
    checker.require(True, "model.depth", "odd")
    checker.require_one_of("dtype", ("float16", "float32"))


def test_an_error_has_the_field_the_rule_and_the_value(checker):
    with pytest.raises(ConfigError, match=r"^model\.depth must be at least 20, got 19$"):
        checker.require(False, "model.depth", "at least 20")


def test_an_error_lists_the_allowed_values(checker):
    with pytest.raises(ConfigError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        checker.require_one_of("dtype", iter(["float32", "bfloat16"]))
