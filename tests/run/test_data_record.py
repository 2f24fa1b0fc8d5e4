"""data.json: what is written when, and what is compared. tests/corpus has the command lines."""

import json
import re
import shutil

import numpy as np
import pytest

from flaxres.data import open_dataset, open_sources
from flaxres.errors import DataChangedError, WorkdirError
from flaxres.run.data_record import (
    DATA_FILE,
    check_data,
    check_image_shape,
    read_data_record,
    report_changed_data,
)
from flaxres.run.input_spec import read_input_spec
from flaxres.run.workdir import open_workdir
from flaxres.training.train import train_and_evaluate
from tests.conftest import write_tfds


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def zeros():
    return np.zeros((8, 8, 1), np.float32)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_data_are_recorded_once(tmp_path, config):
    sources = open_sources(config.dataset)
    assert read_data_record(tmp_path) is None
    data = check_data(tmp_path, config, sources)
    assert list(tmp_path.iterdir()) == []
    data.store(tmp_path, config, 7, zeros)
    record = read_data_record(tmp_path)
    assert record.fingerprint == sources.fingerprint
    assert (record.recorded_at_step, record.changes) == (7, ())
    assert read_input_spec(tmp_path, config).class_names == tuple("0123456789")

    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    check_data(tmp_path, config, sources).store(tmp_path, config, 9, pytest.fail)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_every_allowed_change_is_kept(tmp_path, config):
    sources = open_sources(config.dataset)
    check_data(tmp_path, config, sources).store(tmp_path, config, 0, zeros)
    for step in (3, 5):
        edit(tmp_path / DATA_FILE, '"images":1437', f'"images":{step}')
        with pytest.raises(
            DataChangedError, match=f"has 1437 images|1,437 images instead of {step}"
        ):
            check_data(tmp_path, config, sources)
        data = check_data(tmp_path, config, sources, allow_change=True)
        data.store(tmp_path, config, step, zeros)
        assert (tmp_path / f"inputs-before-step-{step}.npz").exists()
    record = read_data_record(tmp_path)
    assert [change.step for change in record.changes] == [3, 5]
    assert [change.before.splits["train"].images for change in record.changes] == [3, 5]
    assert record.fingerprint == sources.fingerprint


def test_a_change_is_reported(tmp_path, config):
    sources, lines = open_sources(config.dataset), []
    report_changed_data(tmp_path, sources.class_names, sources, lines.append)  # an older run
    check_data(tmp_path, config, sources).store(tmp_path, config, 0, zeros)
    report_changed_data(tmp_path, sources.class_names, sources, lines.append)
    assert lines == []
    edit(tmp_path / DATA_FILE, '"images":360', '"images":361')
    report_changed_data(tmp_path, sources.class_names, sources, lines.append)
    assert lines == [
        f"The data differ from those that {tmp_path} was trained on: split test has 360 images "
        "instead of 361."
    ]
    with pytest.raises(DataChangedError, match="trained on other classes than those of data set"):
        report_changed_data(tmp_path, tuple("9876543210"), sources, lines.append)


def test_selected_classes(tmp_path, config):
    config.dataset.classes = ("3", "5")
    sources = open_sources(config.dataset)
    check_data(tmp_path, config, sources).store(tmp_path, config, 0, zeros)
    assert read_input_spec(tmp_path, config).class_names == ("3", "5")
    (tmp_path / DATA_FILE).unlink()
    assert check_data(tmp_path, config, sources).differences == ()


def test_the_shape_of_the_images(tmp_path, config):
    check_image_shape(tmp_path, config, (8, 8, 1))
    check_data(tmp_path, config, open_sources(config.dataset)).store(tmp_path, config, 0, zeros)
    check_image_shape(tmp_path, config, (8, 8, 1))
    with pytest.raises(DataChangedError, match=r"are now 8 x 8 x 3 .* instead of 8 x 8 x 1;"):
        check_image_shape(tmp_path, config, (8, 8, 3))


def test_unknown_fields_of_newer_versions_are_ignored(tmp_path, config):
    sources = open_sources(config.dataset)
    check_data(tmp_path, config, sources).store(tmp_path, config, 0, zeros)
    path = tmp_path / DATA_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": 1}))
    assert check_data(tmp_path, config, sources).differences == ()
    path.write_text("{}")
    with pytest.raises(WorkdirError, match=r"data.json cannot be read \(Object missing required"):
        check_data(tmp_path, config, sources)


def record_data(config, workdir):
    """Writes the files of a run that has saved a checkpoint, without training it."""
    sources, dataset = open_sources(config.dataset), open_dataset(config)
    with open_workdir(workdir, config, {}):
        check_data(workdir, config, sources).store(workdir, config, 0, dataset.mean_image)
    (workdir / "checkpoints" / "1").mkdir(parents=True)  # without one, other data are accepted


def test_changes_of_a_tfds_data_set(tmp_path, config):
    write_tfds(tmp_path / "original")
    config.dataset.update({"name": "tiny", "image_size": 8, "train_split": "train[:80%]"})
    config.dataset.data_dir = str(tmp_path / "original")
    record_data(config, tmp_path / "run")
    before = contents(tmp_path / "run")

    def rewrite(file, old, new):
        def change(root):
            path = root / "tiny" / "1.0.0" / file
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

        return change

    def change_version(root):
        (root / "tiny" / "1.0.0").rename(root / "tiny" / "2.0.0")
        path = root / "tiny" / "2.0.0" / "dataset_info.json"
        path.write_text(path.read_text().replace("1.0.0", "2.0.0"))

    def write_larger(root):
        shutil.rmtree(root)
        write_tfds(root, sizes=(("train", 51), ("test", 20)))

    def append(root):
        with (root / "tiny" / "1.0.0" / shard).open("ab") as file:
            file.write(b"0")

    shard = "tiny-train.array_record-00000-of-00001"
    for change, part in (
        (change_version, "the data set is tiny 2.0.0 instead of tiny 1.0.0"),
        (write_larger, "split train has 51 images instead of 50"),
        (rewrite("features.json", '"numClasses": "4"', '"numClasses": "5"'), "classes added: 4;"),
        (append, f": {shard} ("),
    ):
        root = shutil.copytree(tmp_path / "original", tmp_path / "changed")
        change(root)
        config.dataset.data_dir = str(root)
        with pytest.raises(DataChangedError, match=re.escape(part)):
            train_and_evaluate(config, tmp_path / "run")
        assert contents(tmp_path / "run") == before
        shutil.rmtree(root)


def test_a_record_of_an_earlier_version_gains_samples(tmp_path, config):
    """Later changes of records are then noticed, and nothing else in data.json changes."""
    write_tfds(tmp_path)
    config.dataset.update({"name": "tiny", "image_size": 8, "data_dir": str(tmp_path)})
    workdir = tmp_path / "run"
    record_data(config, workdir)
    path = workdir / DATA_FILE
    recorded = path.read_bytes()
    content = json.loads(recorded)
    for split in content["fingerprint"]["splits"].values():
        del split["samples"]
    path.write_text(json.dumps(content))
    sources = open_sources(config.dataset)
    check_data(workdir, config, sources).store(workdir, config, 5, pytest.fail)
    assert path.read_bytes() == recorded

    shard = next((tmp_path / "tiny/1.0.0").glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(DataChangedError, match="records of split train differ"):
        check_data(workdir, config, open_sources(config.dataset))


def test_changes_of_arrays_and_of_several_replicas(tmp_path, config):
    config.num_replicas = 2
    record_data(config, tmp_path)
    path = tmp_path / "data.json"
    record = json.loads(path.read_text())
    images = record["fingerprint"]["splits"]["train"]["arrays"]["images"]
    assert images["shape"] == [1437, 8, 8, 1]
    assert images["dtype"] == "uint8"
    images["digest"] = "0" * 64
    path.write_text(json.dumps(record))
    before = contents(tmp_path)
    with pytest.raises(DataChangedError, match="images of split train have other values"):
        train_and_evaluate(config, tmp_path)
    assert contents(tmp_path) == before
