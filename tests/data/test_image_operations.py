"""Operations of augmentation policies against torchvision's, on random images."""

import jax
import numpy as np
import pytest

from flaxres.data.image_operations import OPERATIONS, apply_operation, apply_operations, equalize
from flaxres.platforms import tracing_for
from tests.conftest import quick_jit
from tests.pretrained.torchvision_import import import_torchvision, torch

torchvision = import_torchvision()
from torchvision.transforms import InterpolationMode, autoaugment  # noqa: E402

# Values of each operation. Geometric ones take the nearest pixel, and where two are equally near,
# torchvision and Pillow differ: no value here makes that happen.
VALUES = {
    **dict.fromkeys(("shear-x", "shear-y"), (0.21, -0.13)),
    **dict.fromkeys(("translate-x", "translate-y"), (3.7, -9)),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (0.3, -0.55)),
    **{"rotate": (29, -17), "posterize": (8, 4, 2), "solarize": (255, 0, 100.4)},
}
OFF_BY_ONE = ("color", "contrast", "sharpness", "auto-contrast")  # truncate a rounded float32
CASES = [(name, value) for name in OPERATIONS for value in VALUES.get(name, (0,))]

apply = jax.jit(apply_operation, static_argnames="fill")


def random_image(seed, shape):
    """Returns noise; for odd seeds, with levels of 40 to 125 only."""
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return image // 3 + np.uint8(40) if seed % 2 else image


def with_torchvision(image, name, value, fill=None):
    """Applies an operation of AutoAugment to an image (height, width, channels) as a tensor."""
    theirs = {"auto-contrast": "AutoContrast"}.get(name, name.title().replace("-", ""))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    fill = None if fill is None else [float(fill)] * image.shape[-1]
    nearest = InterpolationMode.NEAREST
    return autoaugment._apply_op(tensor, theirs, value, nearest, fill).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("name", "value"), CASES)
@pytest.mark.parametrize("shape", [(17, 24, 3), (9, 9, 1)])
def test_operations_of_torchvision(name, value, shape):
    for seed in range(4):
        image = random_image(seed, shape)
        actual = apply(image, np.int32(OPERATIONS.index(name)), np.float32(value), fill=0)
        expected = with_torchvision(image, name, value)
        tolerance = 1 if name in OFF_BY_ONE else 0
        np.testing.assert_allclose(np.int32(actual), np.int32(expected), rtol=0, atol=tolerance)


def test_pixels_from_outside_have_the_fill_level():
    image = random_image(0, (12, 12, 3))
    operation = np.int32(OPERATIONS.index("rotate"))
    actual = apply(image, operation, np.float32(25), fill=128)
    np.testing.assert_array_equal(actual, with_torchvision(image, "rotate", 25, fill=128))
    assert (np.asarray(actual)[0, 0] == 128).all()


def test_images_of_one_level_stay_as_they_are():
    image = np.full((6, 6, 3), 77, np.uint8)
    for name in ("auto-contrast", "equalize", "sharpness", "contrast"):
        operation = np.int32(OPERATIONS.index(name))
        np.testing.assert_array_equal(apply(image, operation, np.float32(0.5), fill=0), image)


def test_equalized_levels_by_hand():
    # 1,024 pixels: 256 of each of the levels 10, 20, 30 and 200. The step between output levels is
    # (1024 - 256) // 255 = 3, so the levels become (0 + 1) // 3, (256 + 1) // 3, ...
    image = np.repeat(np.uint8([10, 20, 30, 200]), 256).reshape(32, 32, 1)
    assert np.unique(quick_jit(equalize)(image)).tolist() == [0, 85, 171, 255]


def test_a_loop_over_images_equals_all_operations_at_once():
    images = np.stack([random_image(seed, (8, 8, 3)) for seed in range(16)])
    operations = np.int32([[i, (7 * i + 3) % 15] for i in range(15)] + [[0, 0]])
    values = np.where(operations == OPERATIONS.index("posterize"), 4, 0.3).astype(np.float32)
    expected = [
        apply(apply(image, first, a, fill=0), second, b, fill=0)
        for image, (first, second), (a, b) in zip(images, operations, values, strict=True)
    ]
    for platform in ("cpu", "gpu"):
        with tracing_for(platform):
            actual = quick_jit(lambda *x: apply_operations(*x, 0))(images, operations, values)
        # The second operation may stretch a difference of one level after the first one.
        np.testing.assert_allclose(np.int32(actual), np.int32(expected), rtol=0, atol=3)
