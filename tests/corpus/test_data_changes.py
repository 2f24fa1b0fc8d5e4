"""Data that changed since a run was trained: a resume stops, an evaluation reports it.

Every change is made to copies of one folder of JPEGs, 15 images of each class for training and 7
for testing, and of the workdir of a run that has its checkpoints of steps 1 and 2, of 3.
"""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from flaxres.data import open_sources
from flaxres.errors import DataChangedError, WorkdirError
from flaxres.experiments.analyses.model_sources import load_run
from flaxres.run.data_record import check_data
from tests.commands import assert_error, run_command
from tests.data.jpegs import write_folder

FLAGS = (
    *("--config=configs/digits.py:resnet-8", "--config.model.widths=(4,4,4)"),
    *("--config.batch_size=8", "--config.num_steps=3", "--config.boundaries=()"),
    *("--config.log_every=1", "--config.eval_every=3", "--config.checkpoint_every=1"),
    *("--config.eval_batch_size=21", "--config.num_devices=1"),
)
FOLDER_FLAGS = (*FLAGS, "--config.dataset.name=folder", "--config.dataset.image_size=8")
ADVICE = (
    "restore the data, choose another --workdir, or continue with these data with --allow_data_"
)
LABELS_ADVICE = (
    "Restore the data, or choose another --workdir; --allow_data_change continues with the "
)


def make_unfinished(workdir):
    """Removes the last checkpoint of a run."""
    shutil.rmtree(workdir / "checkpoints" / "3")


def content(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder and an unfinished run of it."""
    root = tmp_path_factory.mktemp("original")
    write_folder(root / "data")
    data_flag = f"--config.dataset.data_dir={root / 'data'}"
    outcome = run_command("flaxres.main", *FOLDER_FLAGS, data_flag, f"--workdir={root / 'run'}")
    assert outcome.code == 0, outcome.stderr
    make_unfinished(root / "run")
    return root


@pytest.fixture
def root(tmp_path, original):
    """A copy of `original`; the test may change it."""
    return shutil.copytree(original, tmp_path / "copy")


def main(root, *flags, env=None):
    data_flag = f"--config.dataset.data_dir={root / 'data'}"
    workdir_flag = f"--workdir={root / 'run'}"
    return run_command("flaxres.main", *FOLDER_FLAGS, data_flag, workdir_flag, *flags, env=env)


def rename(data, old, new):
    for split in ("train", "test"):
        (data / split / old).rename(data / split / new)


def exchange(data):
    for old, new in (("blue", "x"), ("red", "blue"), ("x", "red")):
        rename(data, old, new)


def add_class(data):
    for split in ("train", "test"):
        shutil.copytree(data / split / "red", data / split / "black")


def remove_class(data):
    for split in ("train", "test"):
        shutil.rmtree(data / split / "green")


def add_images(data, split="train", name="green", files=("a.jpg", "b.jpg")):
    for file in files:
        Image.new("RGB", (9, 9)).save(os.fsencode(data / split / name) + b"/" + os.fsencode(file))


def replace_image(data):
    Image.new("RGB", (9, 9)).save(data / "train" / "blue" / "000.jpg")


def rename_and_add(data):
    rename(data, "blue", "azure")
    add_images(data, name="azure", files=("z.png",))


def replace_class(data):
    shutil.rmtree(data / "test" / "red")
    shutil.rmtree(data / "train" / "red")
    rename(data, "green", "red")
    add_images(data, "train", "red", ("n.jpg",))
    for split in ("train", "test"):
        (data / split / "green").mkdir()
        add_images(data, split, "green", ("m.jpg",))


CHANGES = {
    "renamed": (lambda data: rename(data, "blue", "cyan"), ["folders renamed: blue -> cyan;"]),
    "order": (
        lambda data: rename(data, "blue", "zinc"),
        [
            "folders renamed: blue -> zinc; labels",
            " change: green 1 -> 0, red 2 -> 1, zinc (was blue) 0 -> 2. R",
        ],
    ),
    "exchanged": (
        exchange,
        [
            "class folders renamed: blue -> red, red -> blue; labels",
            " change: blue (was red) 2 -> 0, red (was blue) 0 -> 2. R",
        ],
    ),
    "case": (
        lambda data: rename(data, "red", "Red"),
        [
            "class folders renamed: red -> Red; labels",
            " change: Red (was red) 2 -> 0, blue 0 -> 1, green 1 -> 2. R",
        ],
    ),
    "added class": (
        add_class,
        ["class folders added: black (22 images); labels change: blue 0 -> 1, green 1"],
    ),
    "removed class": (
        remove_class,
        ["class folders removed: green (22 images); labels change: red 2 -> 1. R"],
    ),
    "added": (add_images, ["added 2 images in train/green (a.jpg, b.jpg);"]),
    "test": (
        lambda data: add_images(data, "test"),
        ["added 2 images in test/green (a.jpg, b.jpg)"],
    ),
    "many": (
        lambda data: add_images(data, files=[f"n{i}.png" for i in range(9)]),
        ["added 9 images in train/green (n0.png, n1.png, n2.png, n3.png, n4.png and 4 more)"],
    ),
    "removed": (
        lambda data: (data / "train" / "red" / "002.jpg").unlink(),
        ["removed 1 image in train/red (002.jpg);"],
    ),
    "renamed file": (
        lambda data: (data / "train/red/002.jpg").rename(data / "train/red/9.jpg"),
        ["added 1 image in train/red (9.jpg); removed 1 image in train/red (002.jpg);"],
    ),
    "size": (replace_image, ["size changed in train/blue: 000.jpg (", " bytes);"]),
    "renamed and added": (
        rename_and_add,
        ["class folders renamed: blue -> azure; added 1 image in train/azure (z.png);"],
    ),
    "replaced": (
        replace_class,
        [
            "removed: red (22 images)",
            "renamed: green -> red;",
            "1 image in train/red (n.jpg)",
            "; labels change: red (was green) 1 -> 2. R",
        ],
    ),
    "control characters": (
        lambda data: add_images(data, files=["\x1b[31m\n.jpg"]),
        [r"added 1 image in train/green (\x1b[31m\n.jpg)"],
    ),
    "bytes": (
        lambda data: add_images(data, files=[os.fsdecode(b"\xff.jpg")]),
        ["added 1 image in train/green (", "ff.jpg)"],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_resume_with_changed_data_stops_before_it_writes(root, case):
    change, parts = CHANGES[case]
    change(root / "data")
    before = content(root / "run")
    outcome = main(root)
    assert_error(outcome, "the data of", root / "run", "have changed: ", *parts, code=2)
    is_relabeled = any(" change: " in part for part in parts)
    assert (LABELS_ADVICE if is_relabeled else ADVICE) in outcome.stderr
    assert content(root / "run") == before


def test_the_same_data_elsewhere_are_no_change(root):
    shutil.copytree(root / "data", root / "copy of data")
    shutil.rmtree(root / "data")
    assert_error(main(root), f"folder {root / 'data'} does not exist", code=1)
    before = (root / "run" / "data.json").read_bytes()
    outcome = main(root, f"--config.dataset.data_dir={root / 'copy of data'}")
    assert outcome.code == 0, outcome.stderr
    assert "resumes from step 2" in outcome.stderr
    assert (root / "run" / "data.json").read_bytes() == before
    # A finished run is reported without its data.
    shutil.rmtree(root / "copy of data")
    outcome = main(root)
    assert outcome.code == 0
    assert "is finished" in outcome.stdout
    assert outcome.stderr == ""
    outcome = main(root, "--allow_data_change")
    assert outcome.code == 0
    assert outcome.stderr.startswith("note: --allow_data_change has no effect, because ")
    # All its metrics are checked.
    path = root / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], '{"step": 2, ', lines[2], ""]))
    assert_error(main(root), "metrics.jsonl, line 2 is not valid JSON", code=1)


def test_an_allowed_change_is_recorded(root):
    rename(root / "data", "blue", "zinc")
    add_images(root / "data")
    inputs = (root / "run" / "inputs.npz").read_bytes()
    recorded = json.loads((root / "run" / "data.json").read_text())
    outcome = main(root, "--allow_data_change")
    assert outcome.code == 0, outcome.stderr
    assert "resumes from step 2" in outcome.stderr
    record = json.loads((root / "run" / "data.json").read_text())
    assert record["recorded_at_step"] == 0
    assert record["fingerprint"]["classes"] == ["green", "red", "zinc"]
    (change,) = record["changes"]
    assert change["step"] == 2
    assert change["before"] == recorded["fingerprint"]
    assert change["differences"] == [
        "class folders renamed: blue -> zinc",
        "added 2 images in train/green (a.jpg, b.jpg)",
        "labels change: green 1 -> 0, red 2 -> 1, zinc (was blue) 0 -> 2",
    ]
    text = " ".join(outcome.stderr.split())
    assert text.count(f"run continues with changed data: {'; '.join(change['differences'])}") == 1
    with np.load(root / "run" / "inputs.npz") as file:
        assert list(file["class_names"]) == ["green", "red", "zinc"]
    assert (root / "run" / "inputs-before-step-2.npz").read_bytes() == inputs
    # The changed data are now those of the run.
    remove_class(root / "data")
    make_unfinished(root / "run")
    parts = "have changed: class folders removed: green (24 images); labels change"
    assert_error(main(root), parts, code=2)


def test_a_model_that_does_not_fit_the_data_is_refused(root):
    before = content(root / "run")
    add_class(root / "data")
    parts = "has 3 classes, but its data now have 4 (class folders added: black (22 images)); "
    assert_error(main(root, "--allow_data_change"), parts, "transfer.new_head=True", code=2)
    shutil.rmtree(root / "data" / "train" / "black")
    shutil.rmtree(root / "data" / "test" / "black")
    assert content(root / "run") == before


def test_images_of_another_shape_are_refused(root):
    path = root / "run" / "inputs.npz"
    np.savez(path, mean=np.zeros((12, 9, 3), np.float32), class_names=["blue", "green", "red"])
    before = content(root / "run")
    for flags in ((), ("--allow_data_change",)):
        assert_error(main(root, *flags), "are now 8 x 8 x 3", "instead of 12 x 9 x 3", code=2)
    assert content(root / "run") == before


def test_evaluations_and_predictions_of_changed_data(root):
    add_images(root / "data", "test")
    workdir = f"--workdir={root / 'run'}"
    flags = (f"--config.dataset.data_dir={root / 'data'}", workdir)
    outcome = run_command("flaxres.main", *FOLDER_FLAGS, *flags, "--mode=eval", "--splits=test")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("The data differ from those that") == 1
    assert "trained on: added 2 images in test/green (a.jpg, b.jpg)." in outcome.stderr
    assert "test_images: 23" in outcome.stdout
    rename(root / "data", "blue", "zinc")
    parts = ("trained on other classes", "class folders renamed: blue -> zinc")
    for extra in ((), ("--batch_stats=population",)):
        outcome = run_command("flaxres.main", *FOLDER_FLAGS, *flags, "--mode=eval", *extra)
        assert_error(outcome, *parts, code=2)
    # Predictions read the names of the classes from the run.
    image = root / "data" / "test" / "zinc" / "000.jpg"
    outcome = run_command("flaxres.main", workdir, "--mode=predict", f"--images={image}", "--json")
    assert outcome.code == 0, outcome.stderr
    classes = [label["class"] for label in json.loads(outcome.stdout)["predictions"]]
    assert sorted(classes) == ["blue", "green", "red"]
    # Analyses read the data from the place where the run was trained.
    config = json.loads((root / "run" / "config.json").read_text())
    config["dataset"]["data_dir"] = str(root / "data")
    (root / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataChangedError, match="class folders renamed: blue -> zinc"):
        load_run(root / "run")


def test_runs_without_a_fingerprint_record_the_present_data(root):
    expected = json.loads((root / "run" / "data.json").read_text())
    (root / "run" / "data.json").unlink()
    saved = shutil.copytree(root, root.parent / "saved")
    add_images(root / "data")  # nothing is known of the files
    outcome = main(root)
    assert outcome.code == 0, outcome.stderr
    record = json.loads((root / "run" / "data.json").read_text())
    assert record["recorded_at_step"] == 2
    assert record["fingerprint"]["classes"] == expected["fingerprint"]["classes"]
    assert record["changes"] == []

    rename(saved / "data", "red", "amber")  # the names of the classes are known
    parts = "class folders changed: blue -> amber (label 0), green -> blue (label 1), red -> green"
    assert_error(main(saved), parts, code=2)


DAMAGED = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "bytes": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
    "half": lambda text: text[: len(text) // 2],
    "type": lambda text: text.replace(b'"recorded_at_step":0', b'"recorded_at_step":"0"'),
    "count": lambda text: text.replace(b'"count":15', b'"count":NaN'),
    "missing": lambda text: text.replace(b'"classes"', b'"names"'),
    "listing": lambda text: text.replace(b'"listing":"c', b'"listing":"d'),
}


def test_a_damaged_file_is_one_line(root, config):
    add_images(root / "data")
    path = root / "run" / "data.json"
    text = path.read_bytes()
    config.dataset.update({"name": "folder", "data_dir": str(root / "data")})
    sources = open_sources(config.dataset)
    for damage in DAMAGED.values():
        path.write_bytes(damage(text) if callable(damage) else damage)
        with pytest.raises(WorkdirError, match=r"data\.json cannot be read \(.*remove it to adopt"):
            check_data(root / "run", config, sources)
    assert_error(main(root), f"{path} cannot be read (", "remove it to adopt", code=1)
    path.unlink()
    os.mkfifo(path)
    assert_error(main(root), f"{path} cannot be read (data.json is a named pipe", code=1)


def test_the_flag_is_for_training_only(root):
    outcome = main(root, "--mode=eval", "--allow_data_change")
    assert_error(outcome, "--allow_data_change=True applies to --mode=train", code=2)
