"""Readers of a run's JSON and CSV files: values, speed, and one kind of error for any content."""

import functools
import json
import resource
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from flaxres.config import default_config, flatten
from flaxres.errors import DamagedFileError
from flaxres.experiments.results.csv_files import read_metrics_csv, read_responses_csv
from flaxres.experiments.results.plan_file import read_plan
from flaxres.experiments.results.runs import read_run
from flaxres.run.info_file import read_info
from flaxres.run.records import (
    last_record,
    read_columns,
    read_metrics,
    record_blocks,
    records_from_end,
)
from flaxres.run.workdir import read_config, read_run_config

RECORDS = [
    {"step": 4, "train_loss": 1.5, "train_error": 50, "images_per_second": 99.5},
    {"step": 8, "train_loss": 1, "train_error": 25.5, "test_loss": 1.0, "test_error": 30.0},
    {"step": 10, "learning_rate": 0.1, "a_new_value": 3},
]
QUANTITIES = ("gradient", "backward", "activation")
LAYERS = [{"step": 0} | {name: {"conv": 0.5, "head": None} for name in QUANTITIES}]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_columns_have_the_values_of_the_records(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", RECORDS)
    assert read_metrics(tmp_path) == RECORDS
    assert last_record(tmp_path) == RECORDS[-1]
    assert [record for _, record in records_from_end(tmp_path)] == RECORDS[::-1]
    columns = read_columns(tmp_path)
    np.testing.assert_array_equal(columns.steps, [4, 8, 10])
    for name in ("train_loss", "test_error", "a_new_value", "nothing"):
        steps, values = columns.curve(name)
        expected = [(r["step"], r[name]) for r in RECORDS if name in r]
        assert list(zip(steps, values, strict=True)) == expected
    longer = columns.prepend({"step": 0, "train_error": 90.0})
    np.testing.assert_array_equal(longer.curve("train_error"), [[0, 4, 8], [90, 50, 25.5]])


def test_values_of_newer_versions_are_left_out(tmp_path):
    extra = {"note": "text", "list": [1], "huge": 10**400, "flag": True, "nothing": None}
    write_lines(tmp_path / "metrics.jsonl", [RECORDS[0] | extra, RECORDS[1]])
    assert read_metrics(tmp_path) == RECORDS[:2]


def test_a_million_records_take_seconds_and_little_memory(tmp_path):
    line = '{{"step": {}, "train_loss": 1.25, "train_error": 12.5, "images_per_second": 99.5}}\n'
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.writelines(map(line.format, range(1, 100_001)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    assert sum(map(len, record_blocks(tmp_path))) == 100_000
    assert time.process_time() - start < 2  # 0.2 s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB; 10 MiB
    start = time.process_time()
    assert last_record(tmp_path)["step"] == 100_000
    assert time.process_time() - start < 0.1


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=5,
)


def leaves(value, path=()):
    """Yields the path of each value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, child in items:
        yield from leaves(child, (*path, key))


def with_value(value, path, new):
    """Returns a copy with another value at a path; without it if `new` is None."""
    if not path:
        return new
    changed = dict(value)
    if len(path) == 1 and new is None:
        del changed[path[0]]
    else:
        changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


@st.composite
def damaged_texts(draw, documents):
    """Draws the lines of a file in which one value is replaced or removed, or bytes are."""
    documents = list(documents)
    index = draw(st.integers(0, len(documents) - 1))
    path = draw(st.sampled_from(list(leaves(documents[index]))))
    new = draw(JSON_VALUES)
    documents[index] = with_value(documents[index], path, new)
    text = "\n".join(map(json.dumps, documents)).encode() + b"\n"
    if draw(st.booleans()):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 4)))
        text = text[:start] + draw(st.binary(max_size=3)) + text[end:]
    return text


def assert_names_file(read, path):
    """Asserts that `read` returns or raises a DamagedFileError with the path."""
    message = str(path)
    try:
        read()
    except DamagedFileError as error:
        message = str(error)
    assert str(path) in message


FLAT_CONFIG = flatten(default_config())
CONFIG = default_config().to_dict()
READERS = {
    "config.json": ([CONFIG], (read_config, read_run_config)),
    "info.json": ([{"params": 3, "device": "cpu", "devices": 1, "commit": None}], (read_info,)),
    "metrics.jsonl": (
        RECORDS,
        (read_metrics, read_columns, last_record, lambda path: list(records_from_end(path))),
    ),
    "layers.jsonl": (LAYERS, (functools.partial(read_metrics, name="layers.jsonl"),)),
    "sweep.json": ([{"a/seed-0": FLAT_CONFIG, "b/seed-1": {}}], (read_plan,)),
}


@pytest.mark.parametrize("name", READERS)
def test_damage_raises_no_other_error(tmp_path, name):
    documents, readers = READERS[name]
    for file, (content, _) in READERS.items():
        write_lines(tmp_path / file, content)

    @hypothesis.settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @hypothesis.given(damaged_texts(documents))
    def check(text):
        (tmp_path / name).write_bytes(text)
        for reader in (*readers, read_run):
            assert_names_file(functools.partial(reader, tmp_path), tmp_path)

    check()


@hypothesis.settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    text=st.lists(
        st.lists(st.sampled_from(["step", "layer", "std", "1", "2.5", "nan", "x", '"', "", "\0"])),
        max_size=4,
    )
)
def test_csv_files_raise_no_other_error(tmp_path, text):
    path = tmp_path / "file.csv"
    path.write_text("\n".join(map(",".join, text)))
    for reader in (read_metrics_csv, read_responses_csv):
        assert_names_file(functools.partial(reader, path), path)
