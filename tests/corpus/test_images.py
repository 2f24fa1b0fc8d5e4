"""Images and image folders of any content: each command ends with one line a fault, or works.

The folder has 15 images of each of three classes for training and 7 for testing. A run of three
steps was trained on it.
"""

import json
import os
import shutil
import socket
import struct

import pytest
from PIL import Image

from tests.commands import assert_error, run_command
from tests.data.jpegs import write_folder
from tests.data.pngs import GRAY, GRAY_PNG, chunk, png

FLAGS = (
    *("--config=configs/digits.py:resnet-8", "--config.model.widths=(4,4,4)"),
    *("--config.batch_size=8", "--config.num_steps=3", "--config.boundaries=()"),
    *("--config.log_every=1", "--config.eval_every=3", "--config.checkpoint_every=3"),
    *("--config.eval_batch_size=21", "--config.num_devices=1"),
    *("--config.dataset.name=folder", "--config.dataset.image_size=8"),
)
HUGE_PNG = png(1, 8, GRAY, [b"\0"]).replace(
    chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GRAY, 0, 0, 0)),
    chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 70_000, 8, GRAY, 0, 0, 0)),
)


def train(data, workdir, *flags):
    flags = (f"--config.dataset.data_dir={data}", f"--workdir={workdir}", *flags)
    return run_command("flaxres.main", *FLAGS, *flags)


def predict(run, *images, flags=("--json",)):
    images = ",".join(map(str, images))
    return run_command(
        "flaxres.main", "--mode=predict", f"--workdir={run}", f"--images={images}", *flags
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    outcome = train(write_folder(root / "data"), root / "run")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("\n") == outcome.stderr.count("step "), outcome.stderr
    return root


@pytest.fixture
def data(tmp_path, trained):
    return shutil.copytree(trained / "data", tmp_path / "data")


def write_tiff(path):
    Image.new("F", (8, 8), 0.5).save(path, "TIFF")


def make_large(path):
    with open(path, "wb") as file:
        file.truncate(3 * 2**30)  # takes no space


# How to write an image file that cannot be read, from its path and a good file's contents, and what
# the message says about it.
BROKEN = {
    "empty": (lambda path, good: path.write_bytes(b""), "is empty"),
    "cut off": (
        lambda path, good: path.write_bytes(good[:-60]),
        "cannot be decoded (image file is truncated",
    ),
    "text": (
        lambda path, good: path.write_text("text"),
        "(not a file of the formats JPEG, PNG, GI",
    ),
    "tiff": (
        lambda path, good: write_tiff(path),
        "(not a file of the formats JPEG, PNG, GIF, BMP)",
    ),
    "long": (lambda path, good: path.write_bytes(HUGE_PNG), "70,000 x 1 pixels; at most 65,535 a"),
    "large": (lambda path, good: make_large(path), "has 3,221,225,472 bytes"),
    "dangling": (lambda path, good: path.symlink_to("nowhere"), "cannot be read: No such file"),
    "loop": (lambda path, good: path.symlink_to(path.name), "cannot be read: Too many levels"),
    "to pipe": (lambda path, good: path.symlink_to(pipe(path.parent)), "is a named pipe, not"),
    "to zero": (lambda path, good: path.symlink_to("/dev/zero"), "is a device, not an image file"),
    "to folder": (lambda path, good: path.symlink_to("."), "is a directory"),
}


def pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def write_broken(folder, kind):
    """Writes an unreadable file into a folder and returns its path."""
    write, _ = BROKEN[kind]
    path = folder / f"{kind}.jpg"
    write(path, (folder / "002.jpg").read_bytes())
    return path


@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_file_that_cannot_be_read_stops_a_run(data, tmp_path, kind):
    path = write_broken(data / "train" / "red", kind)
    outcome = train(data, tmp_path / "run")
    lines = [line for line in outcome.stderr.splitlines() if "Left out of " not in line]
    assert outcome.code == 1
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith(f"error: {path} ")
    assert BROKEN[kind][1] in lines[0]
    assert "--config.dataset.broken_images=skip" in lines[0]


def test_image_files_that_cannot_be_read_are_skipped_and_counted(data, tmp_path):
    for kind in BROKEN:
        write_broken(data / "train" / "red", kind)
    write_broken(data / "test" / "red", "empty")
    outcome = train(data, tmp_path / "run", "--config.dataset.broken_images=skip")
    assert outcome.code == 0, outcome.stderr
    assert "Skipped 11 of 56 images that cannot be decoded (" in outcome.stderr
    assert "Skipped 1 of 22 images that cannot be decoded (" in outcome.stderr
    outcome = run_command("flaxres.main", "--mode=eval", f"--workdir={tmp_path / 'run'}")
    assert "test_images: 21\n" in outcome.stdout
    assert "train_images: 45\n" in outcome.stdout


def test_neither_other_files_nor_odd_names_of_classes_change_a_run(data, trained, tmp_path):
    """Exactly the same records as without them. A terminal does not obey the names."""
    classes = ("[red]", "a\nb\x1b[31m", "caf\udce9")  # in the order of blue, green and red
    for split in ("train", "test"):
        for old, new in zip(("blue", "green", "red"), classes, strict=True):
            (data / split / old).rename(data / split / new)
    folder = data / "train" / classes[2]
    for name in ("._002.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "1.webp", "\x1b[31m.txt"):
        (folder / name).write_bytes(b"other")
    (folder / "more" / "deeper").mkdir(parents=True)
    (folder / "more" / "deeper" / "1.jpg").write_bytes(b"other")
    (folder / "folder.jpg").mkdir()
    (data / "test" / "labels.csv").write_text("other")
    (data / "README").write_text("other")
    pipe(folder).rename(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))
    outcome = train(data, tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    (notice,) = (line for line in outcome.stderr.splitlines() if "Left out of " in line)
    for part in (
        *("2 hidden files or folders (", "4 files without .jpg, .jpeg or .png"),
        "2 folders in class folders (",
        *("2 pipes, sockets or devices (", "1 file beside the class folders (test/labels.csv)"),
        *(r"train/caf\udce9/more with 1 image)", r"\x1b[31m.txt"),
    ):
        assert part in notice
    assert records(tmp_path / "run") == records(trained / "run")
    # A line break cannot be given in a list of files, but in a pattern.
    outcome = predict(tmp_path / "run", data / "test" / "a?b*" / "001.jpg", flags=())
    assert outcome.code == 0, outcome.stderr
    for name in ("[red]", r"a\nb\x1b[31m", r"caf\udce9"):
        assert f" {name} " in outcome.stdout
    assert "\x1b" not in outcome.stdout
    outcome = predict(tmp_path / "run", data / "test" / classes[2] / "002.jpg")
    (line,) = outcome.stdout.splitlines()
    assert {p["class"] for p in json.loads(line)["predictions"]} == set(classes)


def records(run):
    return [
        {name: value for name, value in json.loads(line).items() if "loss" in name}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def test_folders_that_are_no_data_set(data, tmp_path):
    (data / "flat").mkdir()
    (data / "flat" / "1.jpg").write_bytes(b"")
    (data / "nested" / "red" / "images").mkdir(parents=True)
    (data / "nested" / "red" / "images" / "1.jpg").write_bytes(b"")
    (data / "loop").symlink_to("loop")
    for directory, split, message in (
        ("~nosuchuser/x", "test", "folder ~nosuchuser/x does not exist; it must contain SPLIT/CLA"),
        ("n" * 300, "test", "does not exist"),
        ("/dev/null", "test", "folder /dev/null does not exist"),
        (data, "loop", "must contain a folder 'loop' with class folders"),
        (data, "../data/test", "must contain a folder '../data/test'"),
        (data, "flat", "contains no class folders but 1.jpg; it must contain CLASS/*.jpg"),
        (
            data,
            "nested",
            "nested/red contains no .jpg, .jpeg or .png file; move the files from its",
        ),
        (data, f"test[{'9' * 4000}:]", "has the splits"),
    ):
        outcome = train(directory, tmp_path / "run", f"--config.dataset.test_split={split}")
        assert_error(outcome, message)


def test_predictions_of_good_files_among_others(data, trained, tmp_path):
    folder = data / "test" / "red"
    broken = {str(write_broken(folder, kind)): message for kind, (_, message) in BROKEN.items()}
    good = folder / "002.jpg"
    names = ("[red].jpg", "a\nb.jpg", "caf\udce9.jpg", "n" * 251 + ".jpg", "no suffix", "-x.png")
    for name in names:
        shutil.copy(good, tmp_path / name)
    (tmp_path / "damaged.png").write_bytes(
        png(4, 8, GRAY, [bytes((1, 2, 3, 4))], [chunk(b"eXIf", b"no EXIF")])
    )
    (tmp_path / "gray.png").write_bytes(GRAY_PNG)
    works = [good, *(tmp_path / name for name in (*names, "damaged.png", "gray.png"))]
    given = [str(work).replace("\n", "?") for work in works]
    fails = broken | {
        "/dev/zero": "is a device, not an image file",
        "/dev/null": "is a device, not an image file",
        str(pipe(tmp_path)): "is a named pipe, not an image file",
        str(folder): "is a directory; give its files",
        "n" * 300: "does not exist",
        f"{tmp_path}/nothing*.jpg": "no file matches",
        "~nosuchuser/1.jpg": "does not exist",
    }
    outcome = predict(trained / "run", *fails, *given)
    predicted = [json.loads(line)["image"] for line in outcome.stdout.splitlines()]
    assert predicted == list(map(str, works))
    notice, *errors = outcome.stderr.splitlines()
    assert notice.startswith("1 of 22 images were read without their metadata")
    assert outcome.code == 1
    assert len(errors) == len(fails)
    for name, message in fails.items():
        (error,) = (error for error in errors if f"{name} " in error or error.endswith(name))
        assert error.startswith("error: ")
        assert message in error
        assert "broken_images" not in error


def test_flags_of_predictions(trained, tmp_path):
    good = trained / "data" / "test" / "red" / "002.jpg"
    for i in range(200):
        (tmp_path / f"{i}.jpg").symlink_to(good)
    outcome = predict(trained / "run", f"{tmp_path}/*.jpg", flags=("--json", "--top=1"))
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert (outcome.code, len(lines)) == (0, 200)
    assert len({str(line["predictions"]) for line in lines}) == 1
    outcome = predict(trained / "run", good, flags=("--json", f"--top={10**18}"))
    assert len(json.loads(outcome.stdout)["predictions"]) == 3
    assert_error(
        predict(trained / "run", good, flags=("--top=0",)), "top must be at least 1", code=2
    )
    assert_error(predict(trained / "run", ""), "--images", code=2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("multi-scale", "--scales=100000"), "scales must be at most 9,459 pixels, got 100,000"),
        (("multi-scale", f"--scales=8,{10**30}"), "scales must be at most 9,459 pixels, got 1,000"),
        (("multi-scale", "--scales=-8"), "scales must be different numbers of pixels, at least 1"),
        (("multi-scale", "--scales=8.5"), "--scales must be numbers of pixels, e.g. 224,256"),
        (
            ("10-crop", "--short_side=100000"),
            "short_side must be at most 9,459 pixels, got 100,000",
        ),
        (
            ("center", f"--short_side={10**30}"),
            "--short_side must be an integer of 64 bits, got 1000",
        ),
    ],
)
def test_sizes_of_test_time_crops(trained, flags, message):
    crops, *others = flags
    arguments = ("--mode=eval", f"--workdir={trained / 'run'}", f"--test_crops={crops}", *others)
    assert_error(run_command("flaxres.main", *arguments), message, code=2)
