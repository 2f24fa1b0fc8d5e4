"""Flags of an analysis within a process that has the flags of others."""

import pytest
from absl import flags


@pytest.fixture
def parse(own_flags):
    """`parse(analysis, *arguments)`: the flags of that analysis alone, as a command line sets them.

    Arguments are --NAME=VALUE. Only the flags of the last call are there, and none after the test.
    """
    values, defined = flags.FLAGS, set()

    def forget():
        values.remove_flag_values(defined)
        defined.clear()

    def parse(analysis, *arguments):
        forget()
        before = set(values)
        analysis.define_flags()
        defined.update(set(values) - before)
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            assert name in defined
            values[name].parse(value)
        values.mark_as_parsed()

    parsed = values.is_parsed()
    yield parse
    forget()
    if not parsed:
        values.unparse_flags()
