import numpy as np
import pytest

from flaxres.evaluation.top_k import TopKAccumulator, rank


def probabilities(images, classes, crops, seed=0):
    p = np.random.default_rng(seed).random((images, crops, classes))
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("classes", [4, 5, 6, 20])
def test_errors_and_loss_of_the_mean_probabilities(classes):
    crops, images = 3, 50
    p, rng = probabilities(images, classes, crops), np.random.default_rng(1)
    labels = rng.integers(0, classes, images)
    accumulator = TopKAccumulator(crops)
    for i, crop in rng.permutation([(i, c) for i in range(images) for c in range(crops)]):
        accumulator.add(int(i), int(labels[i]), np.log(p[i, crop]))
    mean = p.mean(axis=1)
    order = np.argsort(-mean, axis=1)
    averages = accumulator.averages("test")
    assert averages["test_images"] == accumulator.count == images
    assert averages["test_error"] == pytest.approx(100 * np.mean(order[:, 0] != labels))
    label_probabilities = mean[np.arange(images), labels]
    assert averages["test_loss"] == pytest.approx(-np.log(label_probabilities).mean())
    if classes > 5:
        missed = [label not in row[:5] for row, label in zip(order, labels, strict=True)]
        assert averages["test_top5_error"] == pytest.approx(100 * np.mean(missed))
    else:
        assert "test_top5_error" not in averages


def test_errors_by_class():
    accumulator = TopKAccumulator(1)
    for index, (label, predicted) in enumerate([(2, 2), (0, 1), (2, 0), (0, 0), (2, 1), (0, 2)]):
        accumulator.add(index, label, np.log([0.8 if i == predicted else 0.1 for i in range(3)]))
    errors = accumulator.errors_by_class("test", ("cat", "dog", "sea lion"))
    expected = {"test_error_cat": 200 / 3, "test_error_sea lion": 200 / 3}  # there is no dog
    assert errors == pytest.approx(expected)
    assert list(errors) == list(expected)


def test_an_image_counts_when_all_its_crops_have_arrived():
    accumulator = TopKAccumulator(2)
    accumulator.add(7, 0, np.log([0.5, 0.5]))
    assert accumulator.count == 0
    accumulator.add(3, 1, np.log([0.5, 0.5]))
    accumulator.add(7, 0, np.log([0.75, 0.25]))
    assert accumulator.count == 1
    assert accumulator.averages("x") == {
        "x_loss": pytest.approx(-np.log(0.625)),
        "x_error": 0.0,
        "x_images": 1,
    }


def test_the_loss_of_a_confidently_wrong_model_is_finite():
    accumulator = TopKAccumulator(1)
    accumulator.add(0, 1, np.float32([0, -1000]))
    assert accumulator.averages("x")["x_loss"] == 1000


def test_lower_labels_win_ties_as_in_argmax():
    scores = np.float32([0.1, 0.4, 0.4, 0.1])
    assert [rank(scores, label) for label in range(4)] == [2, 0, 1, 3]
    assert rank(scores, int(np.argmax(scores))) == 0
