import numpy as np
import pytest

from flaxres.evaluation.top_k import TopKAccumulator, rank


def probabilities(images, classes, views, seed=0):
    p = np.random.default_rng(seed).random((images, views, classes))
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("classes", [4, 5, 6, 20])
def test_rates_are_those_of_the_mean_probabilities(classes):
    views, images = 3, 50
    p, rng = probabilities(images, classes, views), np.random.default_rng(1)
    labels = rng.integers(0, classes, images)
    scores = TopKAccumulator(views)
    for i, view in rng.permutation([(i, v) for i in range(images) for v in range(views)]):
        scores.add(int(i), labels[i], np.log(p[i, view]))
    mean = p.mean(axis=1)
    order = np.argsort(-mean, axis=1)
    averages = scores.averages("test")
    assert averages["test_images"] == scores.count == images
    assert averages["test_error"] == pytest.approx(100 * np.mean(order[:, 0] != labels))
    own = mean[np.arange(images), labels]
    assert averages["test_loss"] == pytest.approx(-np.log(own).mean())
    if classes > 5:
        missed = [label not in row[:5] for row, label in zip(order, labels, strict=True)]
        assert averages["test_top5_error"] == pytest.approx(100 * np.mean(missed))
    else:
        assert "test_top5_error" not in averages


def test_an_image_counts_when_all_its_views_have_come():
    scores = TopKAccumulator(2)
    scores.add(7, 0, np.log([0.5, 0.5]))
    assert scores.count == 0
    scores.add(3, 1, np.log([0.5, 0.5]))
    scores.add(7, 0, np.log([0.75, 0.25]))
    assert scores.count == 1
    assert scores.averages("x") == {
        "x_loss": pytest.approx(-np.log(0.625)),
        "x_error": 0.0,
        "x_images": 1,
    }


def test_the_loss_of_a_net_that_is_sure_and_wrong_is_finite():
    scores = TopKAccumulator(1)
    scores.add(0, 1, np.float32([0, -1000]))
    assert scores.averages("x")["x_loss"] == 1000


def test_of_equal_classes_the_first_is_the_answer_as_in_argmax():
    scores = np.float32([0.1, 0.4, 0.4, 0.1])
    assert [rank(scores, label) for label in range(4)] == [2, 0, 1, 3]
    assert rank(scores, int(np.argmax(scores))) == 0
