import dataclasses
import math
import time

import numpy as np
import pytest
from PIL import Image

from flaxres.data import open_sources
from flaxres.data.decode import DAMAGED_METADATA, BrokenImageError
from flaxres.data.resize import image_to_array, resize_mean
from flaxres.errors import DatasetError
from flaxres.evaluation.evaluator import evaluate_split, load_crops
from flaxres.evaluation.test_crops import make_crop_protocol
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import load_trained_model
from tests.conftest import quick_jit


@dataclasses.dataclass
class Images:
    """A source of images in memory, some of them broken; every third image loads slowly."""

    images: list
    labels: list
    broken: tuple = ()

    def __len__(self):
        return len(self.labels)

    def load(self, index):
        time.sleep(0.001 * (index % 3 == 0))
        if index in self.broken:
            raise BrokenImageError(f"image {index} cannot be decoded")
        return self.images[index], int(self.labels[index])

    def read(self, index):
        return self.load(index)

    def describe(self, index):
        return f"image {index}"


class FirstPixelPredictor(Predictor):
    """Predicts the value of the first pixel as the class, in batches of a fixed maximal size."""

    num_classes = 256

    def __init__(self, max_batch_size):
        self.max_batch_size = max_batch_size
        self.batch_sizes = []

    def batch_size(self, size, count):
        return min(self.max_batch_size, count)

    def launch(self, images, batch_size):
        assert 0 < len(images) <= batch_size
        self.batch_sizes.append(len(images))
        probabilities = np.zeros((batch_size, 256), np.float32)
        probabilities[np.arange(len(images)), images[:, 0, 0, 0]] = 1
        return np.log(probabilities + 1e-6)


@pytest.mark.parametrize("count", [1, 7, 12, 101])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 500])
def test_every_image_counts_once_with_its_label(count, batch_size):
    rng = np.random.default_rng(count)
    shapes = rng.integers(8, 20, (count, 2))
    images = [Image.new("L", tuple(map(int, shape)), i) for i, shape in enumerate(shapes)]
    source = Images(images, list(range(count)))
    protocol = make_crop_protocol("multi-scale", (8, 8), scales=[8, 10])
    predictor = FirstPixelPredictor(batch_size)
    totals = evaluate_split(predictor, protocol, source, "test")
    assert totals.count == count
    assert totals.averages("x")["x_error"] == 0
    assert sum(predictor.batch_sizes) == 2 * count
    source.labels = [(i + 1) % 256 for i in range(count)]
    totals = evaluate_split(predictor, protocol, source, "test")
    assert totals.averages("x")["x_error"] == 100


def test_images_load_in_order_and_broken_ones_are_skipped():
    images = [Image.new("L", (8, 8), i) for i in range(90)]
    source = Images(images, list(range(90)), broken=(0, 40, 89))
    protocol = make_crop_protocol("split", (8, 8))
    loaded = list(load_crops(source, protocol, 256, skip_broken=True))
    assert [i for i, image in enumerate(loaded) if image is None] == [0, 40, 89]
    assert [image.index for image in loaded if image] == [
        i for i in range(90) if i not in source.broken
    ]
    lines = []
    predictor = FirstPixelPredictor(7)
    totals = evaluate_split(predictor, protocol, source, "split test", True, lines.append)
    assert totals.count == 87
    assert lines == ["split test: skipped 3 of 90 images that cannot be decoded"]
    with pytest.raises(BrokenImageError, match="image 0 cannot be decoded"):
        evaluate_split(predictor, protocol, source, "split test")
    images[5].info[DAMAGED_METADATA] = True
    evaluate_split(FirstPixelPredictor(7), protocol, source, "split test", True, lines.append)
    assert lines[2:] == [
        "split test: 1 of 90 images were read without their metadata, which is damaged or too large"
    ]
    source = Images(images[:2], [0, 1], broken=(0, 1))
    with pytest.raises(DatasetError, match="none of the 2 images"):
        evaluate_split(predictor, protocol, source, "split test", True, lines.append)


def test_an_image_of_another_size_or_class_is_named():
    source = Images([Image.new("L", (8, 8)), Image.new("L", (8, 9))], [0, 0])
    with pytest.raises(
        DatasetError, match=r"image 1 has 9 x 8 pixels, but the model's .* have 8 x 8"
    ):
        list(load_crops(source, make_crop_protocol("split", (8, 8)), 10, False))
    source = Images([Image.new("L", (8, 8))], [-1])
    with pytest.raises(DatasetError, match="image 0 has the label -1; there are 10 classes"):
        list(load_crops(source, make_crop_protocol("split", (8, 8)), 10, False))


def mean_probabilities(trained, crops):
    """Returns the probabilities averaged over the crops of one image, in float64."""
    size = crops[0].shape[:2]
    apply = quick_jit(lambda x: trained.model.apply(trained.variables, x, train=False))
    mean = resize_mean(trained.input_spec.mean, size)
    logits = apply(np.stack([crop / np.float32(255) - mean for crop in crops]))
    exp = np.exp(np.asarray(logits, np.float64))
    return (exp / exp.sum(axis=1, keepdims=True)).mean(axis=0)


def mirrored(trained, crop):
    """Returns a crop that, less the mean, is the mirror image of the given crop less the mean."""
    mean = resize_mean(trained.input_spec.mean, crop.shape[:2])
    return 255 * ((crop / np.float32(255) - mean)[:, ::-1] + mean)


def expected_averages(probabilities, labels):
    p = np.stack(probabilities)
    label_probabilities = p[np.arange(len(p)), labels]
    order = np.argsort(-p, axis=1)
    return {
        "test_loss": pytest.approx(-np.log(label_probabilities).mean(), rel=1e-4),
        "test_error": pytest.approx(100 * np.mean(order[:, 0] != labels)),
        "test_top5_error": pytest.approx(100 * np.mean((order[:, :5] != labels[:, None]).all(1))),
        "test_images": len(p),
    }


@pytest.fixture(scope="module")
def trained(digits_run):
    return load_trained_model(digits_run)


def test_ten_crops_and_center_average_single_crops(trained):
    rng = np.random.default_rng(0)
    sizes = [(15, 11), (11, 12), (10, 10), (30, 9), (9, 14)]
    images = [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]
    labels = np.array([3, 1, 4, 1, 5])
    trained.config.eval_batch_size = 3
    protocol = make_crop_protocol("10-crop", (8, 8), short_side=11)
    crops = [protocol.crops(image) for image in images]  # checked in test_test_crops.py
    expected = [
        mean_probabilities(trained, [*five, *(mirrored(trained, crop) for crop in five)])
        for five in crops
    ]
    predictor = Predictor([trained], trained.config, mirror=True)
    totals = evaluate_split(predictor, protocol, Images(images, labels), "test")
    assert totals.averages("test") == expected_averages(expected, labels)

    protocol = make_crop_protocol("center", (8, 8), short_side=11)
    expected = [mean_probabilities(trained, [five[4]]) for five in crops]
    predictor = Predictor([trained], trained.config)
    totals = evaluate_split(predictor, protocol, Images(images, labels), "test")
    assert totals.averages("test") == expected_averages(expected, labels)


def test_multi_scale_averages_whole_images(trained):
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
            np.mean(
                [mean_probabilities(trained, [crop, mirrored(trained, crop)]) for crop in scaled],
                axis=0,
            )
        )
    predictor = Predictor([trained], trained.config, mirror=True)
    totals = evaluate_split(predictor, protocol, Images(images, labels), "test")
    assert totals.averages("test") == expected_averages(expected, labels)


def test_a_batch_has_as_many_pixels_at_any_size(trained):
    trained.config.eval_batch_size = 32
    for mirror, expected in ((False, [32, 8, 2, 1, 5]), (True, [16, 4, 1, 1, 5])):
        predictor = Predictor([trained], trained.config, mirror=mirror)
        batch_sizes = [predictor.batch_size((s, s), 1000) for s in (8, 16, 32, 64)]
        assert [*batch_sizes, predictor.batch_size((8, 8), 5)] == expected


def test_probabilities_do_not_depend_on_the_devices(trained):
    """One device, eight devices and pmap give the same probabilities."""
    source = open_sources(trained.config.dataset).test
    images = np.stack([image_to_array(source.load(i)[0]) for i in range(11)])
    config = trained.config.copy_and_resolve_references()
    results = []
    for devices, parallelism in ((1, "jit"), (8, "jit"), (2, "pmap"), (10_000, "jit")):
        config.num_devices, config.parallelism = devices, parallelism
        predictor = Predictor([trained], config, mirror=True)
        batch_size = predictor.batch_size((8, 8), 11)
        assert batch_size % min(devices, 8) == 0
        results.append(np.asarray(predictor.launch(images, batch_size))[:11])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)
    assert np.exp(results[0]).sum(axis=1) == pytest.approx(np.ones(11), abs=1e-5)
    assert math.isfinite(results[0].min())
