"""JPEG copies of data sets, against Pillow, ITU-T T.81 and the formula of libjpeg."""

import io
import json

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from flaxres.data import jpeg_copy
from flaxres.data.jpeg_copy import encode_jpeg
from flaxres.data.tfds import load_tfds, open_tfds, prepare_jpeg_copy
from flaxres.errors import DatasetError
from tests.commands import run_command
from tests.conftest import write_tfds

# ITU-T T.81, tables K.1 (luminance) and K.2 (chrominance), row by row.
LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *([99] * 32),
)
TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
TENSOR = {
    "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
    "tensor": {"shape": {}, "dtype": "float32", "encoding": "none"},
}


def scaled(table, quality):
    """Returns a quantization table as the Independent JPEG Group's library scales it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(max((value * percent + 50) // 100, 1), 255) for value in table]


def pillow_jpeg(image, **options):
    """Returns an image after Pillow has encoded it as JPEG and decoded it."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", **options)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


@pytest.mark.parametrize(
    ("name", "options"),
    [("tiny_jpeg", {"quality": 75}), ("tiny_jpeg20", {"quality": 20})],
)
@pytest.mark.parametrize("shape", [(6, 5, 3), (9, 17, 1)])
def test_images_are_those_of_pillow_in_the_same_order(tmp_path, name, options, shape):
    arrays = write_tfds(tmp_path, shape=shape)
    path = prepare_jpeg_copy(name, str(tmp_path))
    assert path == str(tmp_path / name / "1.0.0")
    dataset = load_tfds(name, str(tmp_path), "train", "test")
    assert dataset.image_shape == shape
    for split, source in ((dataset.train, "train"), (dataset.test, "test")):
        images, labels = arrays[source]
        np.testing.assert_array_equal(split.labels, labels)
        expected = np.stack([pillow_jpeg(image, **options) for image in images])
        np.testing.assert_array_equal(split.images, expected)


@pytest.mark.parametrize("quality", [75, 20, 100, 1])
def test_quantization_tables_are_those_of_libjpeg(quality):
    image = Image.open(io.BytesIO(encode_jpeg(Image.new("RGB", (32, 32)), quality)))
    expected = [scaled(LUMINANCE, quality), scaled(CHROMINANCE, quality)]
    assert [image.quantization[0], image.quantization[1]] == expected


def test_segments_of_a_file():
    """Baseline (SOF0), the standard Huffman tables, and color planes of half the resolution."""
    data = encode_jpeg(Image.effect_noise((32, 32), 50).convert("RGB"), 75)
    position, segments = 2, []
    while not segments or segments[-1][0] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segments.append((data[position + 1], data[position + 4 : position + 2 + length]))
        position += 2 + length
    assert [marker for marker, _ in segments] == [0xE0, 0xDB, 0xDB, 0xC0, *[0xC4] * 4, 0xDA]
    components = segments[3][1][6:]
    assert list(components[1::3]) == [0x22, 0x11, 0x11]  # ITU-T T.81, B.2.2: H and V
    # T.81, tables K.3 to K.6: 12 DC symbols and 162 AC symbols, after 17 bytes of their header.
    assert [len(content) - 17 for marker, content in segments if marker == 0xC4] == [12, 162] * 2


def test_names_of_records_and_classes_are_kept(tmp_path):
    write_tfds(tmp_path, extra={"id": TEXT})
    (tmp_path / "tiny/1.0.0/label.labels.txt").write_text("a\nb\nc\nd\n")
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    sources = open_tfds("tiny_jpeg", str(tmp_path), "train", "test")
    assert sources.class_names == ("a", "b", "c", "d")
    assert [record["id"] for record in sources.test.records] == [
        f"test_{number}".encode() for number in range(20)
    ]
    info = json.loads((tmp_path / "tiny_jpeg/1.0.0/dataset_info.json").read_text())
    assert [split["shardLengths"] for split in info["splits"]] == [["50"], ["20"]]
    features = json.loads((tmp_path / "tiny_jpeg/1.0.0/features.json").read_text())
    assert features["featuresDict"]["features"]["image"]["image"] == {
        "dtype": "uint8",
        "encodingFormat": "jpeg",
        "shape": {"dimensions": ["6", "5", "3"]},
    }


def test_a_run_prepares_a_missing_copy(tmp_path, capfd):
    write_tfds(tmp_path)
    sources = open_tfds("tiny_jpeg", str(tmp_path), "train", "test")
    assert len(sources.train) == 50
    output = capfd.readouterr()
    assert output.out == ""  # belongs to the training
    assert output.err.splitlines() == [
        f"preparing tiny_jpeg in {tmp_path} (only once)",
        f"prepared {tmp_path}/tiny_jpeg/1.0.0",
    ]
    open_tfds("tiny_jpeg", str(tmp_path), "train", "test")
    assert capfd.readouterr().err == ""


def test_an_interrupted_copy_leaves_nothing(tmp_path, monkeypatch):
    write_tfds(tmp_path)
    encoded = []

    def interrupt(image, quality):
        if len(encoded) == 60:  # in the second split
            raise KeyboardInterrupt
        encoded.append(encode_jpeg(image, quality))
        return encoded[-1]

    with monkeypatch.context() as patch:
        patch.setattr(jpeg_copy, "encode_jpeg", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert list((tmp_path / "tiny_jpeg").iterdir()) == []
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert len(load_tfds("tiny_jpeg", str(tmp_path), "train", "test").test) == 20


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    write_tfds(tmp_path)
    left = tmp_path / "tiny_jpeg/incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "tiny_jpeg-train.array_record-00000-of-00001").write_bytes(b"0")
    other = tmp_path / "tiny_jpeg50/incomplete.ABC123_1.0.0"
    other.mkdir(parents=True)
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert [path.name for path in (tmp_path / "tiny_jpeg").iterdir()] == ["1.0.0"]
    assert other.exists()


def test_what_a_living_process_writes_remains(tmp_path, monkeypatch):
    """A second process begins and ends while the first one writes."""
    write_tfds(tmp_path)
    seen = []

    def encode_while_another_process_prepares(image, quality):
        if not seen:
            seen.extend((tmp_path / "tiny_jpeg").iterdir())
            outcome = run_command(
                "flaxres.data.prepare", "--name=tiny_jpeg", f"--data_dir={tmp_path}"
            )
            assert outcome.code == 0
            assert seen[0].exists()
        return encode_jpeg(image, quality)

    monkeypatch.setattr(jpeg_copy, "encode_jpeg", encode_while_another_process_prepares)
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert seen[0].name.startswith("incomplete.")
    assert [path.name for path in (tmp_path / "tiny_jpeg").iterdir()] == ["1.0.0"]


def test_nothing_is_overwritten(tmp_path):
    write_tfds(tmp_path)
    directory = tmp_path / "tiny_jpeg/1.0.0"
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    (directory / "dataset_info.json").unlink()
    with pytest.raises(DatasetError, match=r"cannot be opened: .*dataset_info\.json"):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert {path.name for path in directory.iterdir()} == before.keys() - {"dataset_info.json"}


def test_an_empty_directory_of_a_copy(tmp_path):
    write_tfds(tmp_path)
    (tmp_path / "tiny_jpeg/1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetError, match="delete that directory and prepare the data set again"):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))


def test_a_copy_that_another_process_finished_first(tmp_path, monkeypatch):
    write_tfds(tmp_path)
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    (tmp_path / "tiny_jpeg").rename(tmp_path / "hidden")

    def finish(image, quality):
        if (tmp_path / "hidden/1.0.0").exists():
            (tmp_path / "hidden/1.0.0").rename(tmp_path / "tiny_jpeg/1.0.0")
        return encode_jpeg(image, quality)

    monkeypatch.setattr(jpeg_copy, "encode_jpeg", finish)
    prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert [path.name for path in (tmp_path / "tiny_jpeg").iterdir()] == ["1.0.0"]


def edit_image(tmp_path, **changes):
    """Changes the image feature of a prepared data set."""
    path = tmp_path / "tiny/1.0.0/features.json"
    features = json.loads(path.read_text())
    features["featuresDict"]["features"]["image"]["image"].update(changes)
    path.write_text(json.dumps(features))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"encodingFormat": "jpeg"}, "its images are jpeg files, not PNG files"),
        ({"dtype": "uint16"}, "not 8-bit gray or RGB images"),
        ({"shape": {"dimensions": ["6", "5", "4"]}}, "not 8-bit gray or RGB images"),
        ({"shape": {"dimensions": ["-1", "-1", "3"]}}, "its images vary in size"),
    ],
)
def test_images_that_are_not_re_encoded(tmp_path, changes, problem):
    write_tfds(tmp_path)
    edit_image(tmp_path, **changes)
    outcome = run_command("flaxres.data.prepare", "--name=tiny_jpeg", f"--data_dir={tmp_path}")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: data set 'tiny' cannot be re-encoded as 'tiny_jpeg': ")
    assert problem in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "tiny_jpeg").exists()


def test_other_features(tmp_path):
    write_tfds(tmp_path, extra={"place": TENSOR})
    with pytest.raises(DatasetError, match="other than images, classes and texts: place"):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))


def test_a_source_that_is_a_tfrecord(tmp_path):
    write_tfds(tmp_path, file_format="tfrecord")
    with pytest.raises(DatasetError, match=r"'tiny' .*prepared as tfrecord"):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))
    assert not (tmp_path / "tiny_jpeg").exists()


def replace_in_shard(tmp_path, old, new):
    """Replaces bytes in the training images of a source, without changing their number."""
    module = array_record_module
    path = next((tmp_path / "tiny/1.0.0").glob("*train*"))
    reader = module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record.replace(old, new))
    writer.close()


def test_a_broken_image_in_the_source(tmp_path):
    """One line of the command, and one more of the training that runs it."""
    write_tfds(tmp_path)
    replace_in_shard(tmp_path, b"IDAT", b"IDXT")
    outcome = run_command("flaxres.data.prepare", "--name=tiny_jpeg", f"--data_dir={tmp_path}")
    assert outcome.code == 1
    problem = f"error: image 0 of tiny train in {tmp_path}/tiny/1.0.0 cannot be decoded ("
    advice = "; repair the data set 'tiny', or delete its directory and prepare it again\n"
    assert outcome.stderr.startswith(problem)
    assert outcome.stderr.endswith(advice)
    assert outcome.stderr.count("\n") == 1
    with pytest.raises(DatasetError) as caught:
        open_tfds("tiny_jpeg", str(tmp_path), "train", "test")
    assert "could not be prepared" in str(caught.value)
    assert "network" not in str(caught.value)


def test_labels_of_the_source(tmp_path):
    """TFDS labels an image without a class -1."""
    labels = write_tfds(tmp_path)["train"][1]
    index = list(labels).index(3)
    label_3 = b"\n\x05label\x12\x05\x1a\x03\n\x01"
    replace_in_shard(tmp_path, label_3 + b"\x03", label_3 + b"\x4d")
    message = rf"^image {index} of tiny train in .* has the label 77; there are 4 classes"
    with pytest.raises(DatasetError, match=message):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))


def test_the_command(tmp_path):
    write_tfds(tmp_path)
    arguments = ("flaxres.data.prepare", "--name=tiny_jpeg50", f"--data_dir={tmp_path}")
    outcome = run_command(*arguments)
    assert outcome.code == 0, outcome
    assert outcome.stdout == f"prepared {tmp_path}/tiny_jpeg50/1.0.0\n"
    outcome = run_command(*arguments)
    assert outcome.stdout == f"already prepared: {tmp_path}/tiny_jpeg50/1.0.0\n"


def test_the_command_without_the_source_and_tensorflow(tmp_path):
    arguments = ("flaxres.data.prepare", "--name=cifar10_jpeg", f"--data_dir={tmp_path}")
    outcome = run_command(*arguments)
    assert outcome.code == 1
    assert outcome.stderr.count("\n") == 1
    assert "data set 'cifar10' is not prepared" in outcome.stderr
    assert "pip install" in outcome.stderr
    command = f"`flaxres prepare --name=cifar10_jpeg --data_dir={tmp_path}`"
    assert command in outcome.stderr
    assert "if it is prepared elsewhere, name that directory (--data_dir" in outcome.stderr
