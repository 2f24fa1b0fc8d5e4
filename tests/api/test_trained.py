"""Predictions and evaluations from Python, compared with those of the command line's functions."""

import json

import jax
import numpy as np
import pytest
import torch
from ml_collections import FrozenConfigDict
from PIL import Image

import flaxres
from flaxres.data import load_dataset
from flaxres.errors import ArgumentError, CheckpointError
from flaxres.evaluation.evaluate import evaluate_run
from flaxres.inference.predict import PredictionError, predict_files
from tests.conftest import small_config


@pytest.fixture(scope="module")
def trained(digits_run):
    return flaxres.load(digits_run)


@pytest.fixture(scope="module")
def test_split():
    return load_dataset(small_config().dataset).test


def test_predictions_agree_with_the_logged_test_error(trained, test_split):
    predictions = trained.predict(test_split.images)
    assert predictions.probabilities.shape == (360, 10)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-5)
    error = 100 * np.mean(predictions.labels != test_split.labels)
    np.testing.assert_allclose(error, trained.errors["test_error"])
    assert predictions.names == [str(label) for label in predictions.labels]
    assert predictions.top(2)[0][0][0] == predictions.names[0]
    logits = trained.model.apply(
        trained.variables, trained.normalize(test_split.images[:4]), train=False
    )
    assert np.argmax(logits, axis=1).tolist() == predictions.labels[:4].tolist()


def test_evaluations_agree(trained, digits_run, test_split):
    record = evaluate_run(None, digits_run, splits=["test"])
    assert trained.evaluate("test") == record
    images = trained.evaluate(images=test_split.images, labels=test_split.labels)
    assert images.keys() == {"loss", "error", "top5_error", "images"}
    for name, value in images.items():
        np.testing.assert_allclose(value, record[f"test_{name}"], rtol=1e-5)
    by_class = trained.evaluate(images=test_split.images, labels=test_split.labels, by_class=True)
    record = trained.evaluate("test", by_class=True)
    for digit in range(10):
        assert by_class[f"error_{digit}"] == record[f"test_error_{digit}"]


def test_files_are_predicted_as_by_the_command(trained, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (20, 31), dtype=np.uint8)).save(tmp_path / name)
    predictions = trained.predict(tmp_path / "*.png")
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert list(predictions.files) == files
    expected = dict(predict_files(trained, files, 3, []))
    for file, classes in zip(predictions.files, predictions.top(3), strict=True):
        assert [name for name, _ in classes] == [name for name, _ in expected[file]]
        np.testing.assert_allclose(
            [value for _, value in classes], [value for _, value in expected[file]], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ArgumentError, "at least one image"),
        (np.zeros((8, 8, 1)), ArgumentError, "uint8 arrays .* one of them is float64 of shape"),
        (np.zeros((8, 8, 3), np.uint8), ArgumentError, "have 1 channel, got an image of shape"),
        ("nothing-*.png", PredictionError, "no file matches"),
        (None, ArgumentError, "must be arrays or paths, got None"),
    ],
)
def test_bad_images_are_one_line(trained, images, error, message, unchecked_types):
    with pytest.raises(error, match=message):
        trained.predict(images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "must be 1 integer, one for each image"),
        (np.array([0.5]), "must be 1 integer, one for each image"),
        ([10], "from 0 to 9"),
        ([[0], [1, 2]], "must be 1 integer, one for each image"),
    ],
)
def test_bad_labels_are_one_line(trained, labels, message, unchecked_types):
    with pytest.raises(ArgumentError, match=message):
        trained.evaluate(images=np.zeros((1, 8, 8, 1), np.uint8), labels=labels)
    with pytest.raises(ArgumentError, match="either splits, or both"):
        trained.evaluate("test", labels=labels)


def test_arrays_of_other_libraries(trained, test_split):
    images = test_split.images[:3]
    expected = trained.predict(images).probabilities
    for given in (jax.numpy.asarray(images), [*jax.numpy.asarray(images)]):
        np.testing.assert_array_equal(trained.predict(given).probabilities, expected)


def test_images_of_every_kind_are_normalized(trained, test_split, unchecked_types):
    images = test_split.images[:2]
    expected = images.astype(np.float32) * np.float32(1 / 255) - trained.input_spec.mean
    traced = jax.numpy.asarray(images)
    given = (
        *(images, traced, [*images], tuple(images), [*traced], iter(images), images.tolist()),
        *(memoryview(images), np.ma.masked_array(images), torch.from_numpy(images.copy())),
    )
    for value in given:
        normalized = trained.normalize(value)
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized, expected, atol=1e-6)
    for transformed in (jax.jit(trained.normalize), jax.vmap(trained.normalize)):
        np.testing.assert_allclose(transformed(traced), expected, atol=1e-6)
    pair = jax.jit(lambda first, second: trained.normalize([first, second]))(*images)
    np.testing.assert_allclose(pair, expected, atol=1e-6)


def test_images_of_pil(unchecked_types):
    trained = flaxres.load_pretrained("resnet-20-cifar10_jpeg")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(trained.normalize(image), trained.normalize(pixels))
    np.testing.assert_array_equal(trained.normalize([image])[0], trained.normalize(pixels))
    expected = trained.predict(pixels).probabilities
    for given in (image, [image], memoryview(pixels)):
        np.testing.assert_array_equal(trained.predict(given).probabilities, expected)


MASKED = np.ma.masked_array(np.zeros((8, 8, 1), np.uint8), mask=np.eye(8)[..., None])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda trained: trained.normalize(np.zeros((8, 8, 1)).tolist()), "got float64 of shape"),
        (
            lambda trained: trained.normalize(torch.zeros((2, 1, 8, 8), dtype=torch.uint8)),
            r"must be uint8 of shape \(8, 8, 1\), got uint8 of shape \(2, 1, 8, 8\)",
        ),
        (
            lambda trained: trained.normalize(np.full((8, 8, 1), 256).tolist()),
            "images must have integers from 0 to 255, got 256 to 256",
        ),
        (lambda trained: trained.normalize([[1], [2, 3]]), r"got \[\[1\], \[2, 3\]\]"),
        (lambda trained: trained.normalize(MASKED), "images must not have masked pixels"),
        (lambda trained: trained.predict(MASKED), "images must not have masked pixels"),
        (lambda trained: trained.normalize(3), r"images must be uint8 of shape \(8, 8, 1\), got 3"),
        (
            lambda trained: trained.normalize(np.zeros((2, 8, 8, 1), np.float32)),
            r"images must be uint8 of shape \(8, 8, 1\), got float32 of shape \(2, 8, 8, 1\)",
        ),
        (lambda trained: trained.evaluate(test_crops=3), "test_crops must be the name of a crop"),
        (lambda trained: trained.evaluate(by_class="no"), "by_class must be True or False, got"),
        (lambda trained: trained.export("x.pth", format=3), "format must be the name of a format"),
        (lambda trained: trained.evaluate(3), "splits must be names such as 'test', got 3"),
        (lambda trained: trained.evaluate("test", short_side="x"), "must be integers, in pixels"),
        (lambda trained: trained.evaluate("test", scales=5.5), "must be integers, in pixels"),
        (lambda trained: trained.export(None), "output must be text or a path"),
        (lambda trained: trained.predict(np.zeros((8, 8, 1), np.uint8)).top(0), "count must be"),
    ],
)
def test_wrong_arguments_are_one_line(trained, call, message, unchecked_types):
    with pytest.raises(ArgumentError, match=message):
        call(trained)


def test_bools_of_numpy(trained, unchecked_types):
    record = trained.evaluate("test", by_class=np.True_)
    assert record == trained.evaluate("test", by_class=True)
    with pytest.raises(ArgumentError, match="by_class must be True or False, got 1"):
        trained.evaluate("test", by_class=1)


def test_an_earlier_checkpoint(digits_run, trained, unchecked_types):
    earlier = flaxres.load(digits_run, step=np.int64(10), ema=np.False_)
    assert (earlier.step, trained.step) == (10, 20)
    first = [jax.tree.leaves(model.variables["params"])[0] for model in (earlier, trained)]
    assert not np.array_equal(*first)
    with pytest.raises(CheckpointError, match="no checkpoint of step 11, only of 10, 15, 20"):
        flaxres.load(digits_run, step=11)


def test_weights_files_and_exports(trained, tmp_path, test_split):
    assert trained.export(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    frozen = FrozenConfigDict(trained.config)
    again = flaxres.load_pretrained(tmp_path / "model.safetensors", frozen)
    images = test_split.images[:4]
    np.testing.assert_array_equal(
        again.predict(images).probabilities, trained.predict(images).probabilities
    )
    trained.export(tmp_path / "model.stablehlo")
    metadata = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert metadata["class_names"] == list(trained.class_names)
