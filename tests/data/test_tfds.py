import json
import shutil

import numpy as np
import pytest

from flaxres.data.in_memory import load_sources
from flaxres.data.tfds import load_tfds, open_tfds, prepare_jpeg_copy, tfds_shape
from flaxres.errors import DatasetError
from tests.conftest import write_tfds


def test_images_and_labels_are_those_that_were_written(tmp_path):
    arrays = write_tfds(tmp_path)
    dataset = load_tfds("tiny", str(tmp_path), "train", "test")
    for split, name in ((dataset.train, "train"), (dataset.test, "test")):
        np.testing.assert_array_equal(split.images, arrays[name][0])
        np.testing.assert_array_equal(split.labels, arrays[name][1])
    assert dataset.image_shape == (6, 5, 3)
    assert dataset.num_classes == 4
    assert tfds_shape("tiny", str(tmp_path)) == ((6, 5, 3), 4)


def test_slices_of_splits(tmp_path):
    images, labels = write_tfds(tmp_path)["train"]
    dataset = load_tfds("tiny", str(tmp_path), "train[:45]", "train[45:]")
    assert (len(dataset.train), len(dataset.test)) == (45, 5)
    np.testing.assert_array_equal(dataset.test.labels, labels[45:])
    np.testing.assert_array_equal(dataset.test.images, images[45:])


def test_no_tensorflow_is_imported(tmp_path, python):
    write_tfds(tmp_path)
    code = (
        "import sys\n"
        "from flaxres.data.tfds import load_tfds\n"
        f"load_tfds('tiny', {str(tmp_path)!r}, 'train', 'test')\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def error_message(tmp_path, name="tiny", train="train", test="test"):
    with pytest.raises(DatasetError) as caught:
        load_tfds(name, str(tmp_path), train, test)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_data_set(tmp_path):
    assert "'tinny' is neither 'digits' nor a data set of TFDS" in error_message(tmp_path, "tinny")


@pytest.mark.parametrize("name", ["huggingface:tiny", "kaggle:tiny", "a_b-c:tiny/config:1.0.0"])
def test_data_sets_whose_code_would_be_downloaded(tmp_path, name):
    assert f"data set {name!r} is from a community" in error_message(tmp_path, name)


def test_missing_directory(tmp_path):
    assert str(tmp_path / "nowhere") in error_message(tmp_path / "nowhere")


def test_half_written_directory_without_info(tmp_path):
    write_tfds(tmp_path)
    (tmp_path / "tiny/1.0.0/dataset_info.json").unlink()
    assert "dataset_info.json" in error_message(tmp_path)


def test_truncated_info(tmp_path):
    write_tfds(tmp_path)
    info = tmp_path / "tiny/1.0.0/dataset_info.json"
    info.write_text(info.read_text()[:100])
    assert "cannot be opened" in error_message(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_half_written_records(tmp_path, damage):
    write_tfds(tmp_path)
    records = next((tmp_path / "tiny/1.0.0").glob("*train*"))
    content = records.read_bytes()
    if damage == "missing":
        records.unlink()
    else:
        records.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    assert "is incomplete or damaged" in error_message(tmp_path)


def test_fewer_records_than_promised(tmp_path):
    write_tfds(tmp_path)
    write_tfds(tmp_path / "short", sizes=(("train", 30), ("test", 20)))
    shutil.copy(
        next((tmp_path / "short/tiny/1.0.0").glob("*train*")),
        next((tmp_path / "tiny/1.0.0").glob("*train*")),
    )
    assert "is incomplete or damaged" in error_message(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "changed", "truncated"])
def test_records_that_cannot_be_read_one_by_one(tmp_path, damage):
    write_tfds(tmp_path, shape=(12, 10, 3))
    sources = open_tfds("tiny", str(tmp_path), "train", "test")
    shard = next((tmp_path / "tiny/1.0.0").glob("*train*"))
    if damage == "missing":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        middle = len(content) // 2
        content[middle] ^= 255
        shard.write_bytes(content if damage == "changed" else content[:middle])
    with pytest.raises(DatasetError) as caught:
        load_sources(sources, image_size=0)
    assert str(caught.value).startswith(
        f"data set tiny train in {tmp_path}/tiny/1.0.0 is incomplete or damaged ("
    )
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="is incomplete or damaged"):
        prepare_jpeg_copy("tiny_jpeg", str(tmp_path))


def test_unknown_split(tmp_path):
    write_tfds(tmp_path)
    text = error_message(tmp_path, train="validation")
    assert "no split 'validation'; it has train (50), test (20)" in text
    assert "no split 'train[9'" in error_message(tmp_path, train="train[9")
    assert "no split 'train[:0]'" in error_message(tmp_path, train="train[:0]")


def test_not_image_classification(tmp_path):
    module = "tensorflow_datasets.core.features."
    text = {"pythonClassName": module + "text_feature.Text", "text": {}}
    second = {
        "pythonClassName": module + "class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "2"},
    }
    write_tfds(tmp_path, extra={"caption": text, "other": second})
    assert "not an image-classification set" in error_message(tmp_path)


def test_prepared_as_tfrecord(tmp_path):
    write_tfds(tmp_path, file_format="tfrecord")
    assert "prepared as tfrecord" in error_message(tmp_path)


def test_varying_image_size(tmp_path):
    write_tfds(tmp_path)
    path = tmp_path / "tiny/1.0.0/features.json"
    features = json.loads(path.read_text())
    shape = features["featuresDict"]["features"]["image"]["image"]["shape"]
    shape["dimensions"] = ["-1", "-1", "3"]
    path.write_text(json.dumps(features))
    assert "images of varying size" in error_message(tmp_path)


def test_shape_of_a_data_set_that_is_not_prepared(tmp_path):
    assert tfds_shape("cifar10", str(tmp_path)) == ((32, 32, 3), 10)


def test_half_written_directory_of_a_data_set_of_tfds(tmp_path):
    (tmp_path / "cifar10/3.0.2").mkdir(parents=True)
    assert "delete that directory and prepare the data set again" in error_message(
        tmp_path, "cifar10"
    )
