import dataclasses
import math
import time

import numpy as np
import pytest
from PIL import Image

from flaxres.data import open_sources
from flaxres.data.decode import BrokenImageError
from flaxres.data.resize import image_to_array, resize_mean
from flaxres.errors import DatasetError
from flaxres.evaluation.evaluator import evaluate_split, read
from flaxres.evaluation.test_crops import make_crop_protocol
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import load_trained_model
from tests.conftest import quick_jit


@dataclasses.dataclass
class Images:
    """A source of images in memory, some of which are broken; later ones are read faster."""

    images: list
    labels: list
    broken: tuple = ()

    def __len__(self):
        return len(self.labels)

    def load(self, index):
        time.sleep(0.001 * (index % 3 == 0))
        if index in self.broken:
            raise BrokenImageError(f"image {index} cannot be decoded")
        return self.images[index], self.labels[index]

    def describe(self, index):
        return f"image {index}"


class Echo:
    """In the place of a net: the class is the value of the first pixel, whatever the batch."""

    num_classes = 256

    def __init__(self, most):
        self.most = most
        self.sizes = []

    def batch_size(self, size, count):
        return min(self.most, count)

    def launch(self, images, batch_size):
        assert 0 < len(images) <= batch_size
        self.sizes.append(len(images))
        filled = np.zeros((batch_size, 256), np.float32)
        filled[np.arange(len(images)), images[:, 0, 0, 0]] = 1
        return np.log(filled + 1e-6)


@pytest.mark.parametrize("count", [1, 7, 12, 101])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 500])
def test_every_image_counts_once_with_its_label(count, batch_size):
    rng = np.random.default_rng(count)
    shapes = rng.integers(8, 20, (count, 2))
    images = [Image.new("L", tuple(map(int, shape)), i) for i, shape in enumerate(shapes)]
    source = Images(images, list(range(count)))
    protocol = make_crop_protocol("multi-scale", (8, 8), scales=[8, 10])
    net = Echo(batch_size)
    scores = evaluate_split(net, protocol, source, "test")
    assert scores.count == count
    assert scores.averages("x")["x_error"] == 0
    assert sum(net.sizes) == 2 * count
    source.labels = [(i + 1) % 256 for i in range(count)]
    assert evaluate_split(net, protocol, source, "test").averages("x")["x_error"] == 100


def test_images_are_read_in_order_and_broken_ones_left_out():
    images = [Image.new("L", (8, 8), i) for i in range(90)]
    source = Images(images, list(range(90)), broken=(0, 40, 89))
    protocol = make_crop_protocol("split", (8, 8))
    found = list(read(source, protocol, 256, skip_broken=True))
    assert [i for i, item in enumerate(found) if item is None] == [0, 40, 89]
    assert [item[0] for item in found if item] == [i for i in range(90) if i not in source.broken]
    said = []
    scores = evaluate_split(Echo(7), protocol, source, "split test", True, said.append)
    assert scores.count == 87
    assert said == ["3 of 90 images of split test cannot be decoded; left out"]
    with pytest.raises(BrokenImageError, match="image 0 cannot be decoded"):
        evaluate_split(Echo(7), protocol, source, "split test")
    source = Images(images[:2], [0, 1], broken=(0, 1))
    with pytest.raises(DatasetError, match="none of the 2 images"):
        evaluate_split(Echo(7), protocol, source, "split test", True, said.append)


def test_an_image_of_another_size_or_class_is_named():
    source = Images([Image.new("L", (8, 8)), Image.new("L", (8, 9))], [0, 0])
    with pytest.raises(DatasetError, match="image 1 has 9 x 8 pixels and not the 8 x 8"):
        list(read(source, make_crop_protocol("split", (8, 8)), 10, False))
    source = Images([Image.new("L", (8, 8))], [-1])
    with pytest.raises(DatasetError, match="image 0 has the label -1; there are 10 classes"):
        list(read(source, make_crop_protocol("split", (8, 8)), 10, False))


def by_hand(net, views):
    """Mean probabilities over the views of one image, each applied alone; in float64."""
    shape = views[0].shape[:2]
    apply = quick_jit(lambda x: net.model.apply(net.variables, x, train=False))
    mean = resize_mean(net.inputs.mean, shape)
    logits = apply(np.stack([view / np.float32(255) - mean for view in views]))
    exp = np.exp(np.asarray(logits, np.float64))
    return (exp / exp.sum(axis=1, keepdims=True)).mean(axis=0)


def mirrored(net, view):
    """A view such that its mirror image is what remains when the mean is subtracted from it."""
    mean = resize_mean(net.inputs.mean, view.shape[:2])
    return 255 * ((view / np.float32(255) - mean)[:, ::-1] + mean)


def rates_of(probabilities, labels):
    p = np.stack(probabilities)
    own = p[np.arange(len(p)), labels]
    order = np.argsort(-p, axis=1)
    return {
        "test_loss": pytest.approx(-np.log(own).mean(), rel=1e-4),
        "test_error": pytest.approx(100 * np.mean(order[:, 0] != labels)),
        "test_top5_error": pytest.approx(100 * np.mean((order[:, :5] != labels[:, None]).all(1))),
        "test_images": len(p),
    }


@pytest.fixture(scope="module")
def net(digits_run):
    return load_trained_model(digits_run)


def test_ten_crops_and_centre_are_means_of_single_crops(net):
    rng = np.random.default_rng(0)
    sizes = [(15, 11), (11, 12), (10, 10), (30, 9), (9, 14)]
    images = [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]
    labels = np.array([3, 1, 4, 1, 5])
    net.config.eval_batch_size = 3
    protocol = make_crop_protocol("10-crop", (8, 8), short_side=11)
    crops = [protocol.views(image) for image in images]  # see test_views
    everything = [by_hand(net, [*five, *(mirrored(net, v) for v in five)]) for five in crops]
    predictor = Predictor([net], net.config, mirror=True)
    scores = evaluate_split(predictor, protocol, Images(images, labels), "test")
    assert scores.averages("test") == rates_of(everything, labels)

    protocol = make_crop_protocol("center", (8, 8), short_side=11)
    centers = [by_hand(net, [five[4]]) for five in crops]
    predictor = Predictor([net], net.config)
    scores = evaluate_split(predictor, protocol, Images(images, labels), "test")
    assert scores.averages("test") == rates_of(centers, labels)


def test_multi_scale_is_the_mean_over_whole_images(net):
    rng = np.random.default_rng(1)
    sizes = [(8, 8), (16, 8), (8, 16), (9, 9)]
    images = [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]
    labels = np.array([3, 1, 4, 1])
    protocol = make_crop_protocol("multi-scale", (8, 8), scales=[8, 14])
    expected = []
    for image in images:
        scaled = [
            image_to_array(
                image.resize((w * s // h, s) if w >= h else (s, h * s // w), Image.BILINEAR)
            )
            for s in (8, 14)
            for w, h in [image.size]
        ]
        expected.append(
            np.mean([by_hand(net, [view, mirrored(net, view)]) for view in scaled], axis=0)
        )
    predictor = Predictor([net], net.config, mirror=True)
    scores = evaluate_split(predictor, protocol, Images(images, labels), "test")
    averages = rates_of(expected, labels)
    assert scores.averages("test") == averages


def test_a_batch_has_as_many_pixels_at_any_size(net):
    net.config.eval_batch_size = 32
    for mirror, expected in ((False, [32, 8, 2, 1, 5]), (True, [16, 4, 1, 1, 5])):
        predictor = Predictor([net], net.config, mirror=mirror)
        found = [predictor.batch_size((s, s), 1000) for s in (8, 16, 32, 64)]
        assert [*found, predictor.batch_size((8, 8), 5)] == expected


def test_the_devices_share_a_batch(net):
    """Eight devices, or one, or pmap: the same probabilities."""
    source = open_sources(net.config.dataset).test
    images = np.stack([image_to_array(source.load(i)[0]) for i in range(11)])
    config = net.config.copy_and_resolve_references()
    results = []
    for devices, parallelism in ((1, "jit"), (8, "jit"), (2, "pmap"), (10_000, "jit")):
        config.num_devices, config.parallelism = devices, parallelism
        predictor = Predictor([net], config, mirror=True)
        size = predictor.batch_size((8, 8), 11)
        assert size % min(devices, 8) == 0
        results.append(np.asarray(predictor.launch(images, size))[:11])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)
    assert np.exp(results[0]).sum(axis=1) == pytest.approx(np.ones(11), abs=1e-5)
    assert math.isfinite(results[0].min())
