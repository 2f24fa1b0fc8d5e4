"""Fixture that defines the flags of one analysis in a process that has other flags."""

import pytest
from absl import flags


@pytest.fixture
def parse(isolated_flags):
    """Returns `parse(analysis, *arguments)`, which sets flags as a command line would.

    Arguments are --NAME=VALUE. Only the flags of the last call are defined; after the test none
    are.
    """
    values, defined = flags.FLAGS, set()

    def remove_flags():
        values.remove_flag_values(defined)
        defined.clear()

    def parse(analysis, *arguments):
        remove_flags()
        before = set(values)
        analysis.define_flags()
        defined.update(set(values) - before)
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            assert name in defined
            values[name].parse(value)
        values.mark_as_parsed()

    was_parsed = values.is_parsed()
    yield parse
    remove_flags()
    if not was_parsed:
        values.unparse_flags()
