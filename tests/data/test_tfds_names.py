import pytest

from flaxres.data.tfds_names import split_jpeg_name
from flaxres.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10_jpeg", ("cifar10", 75)),
        ("cifar10_jpeg50", ("cifar10", 50)),
        ("svhn_cropped_jpeg100", ("svhn_cropped", 100)),
        ("cifar10", None),
        ("cifar10_jpeg:1.0.0", None),
        ("_jpeg", None),
        ("jpeg", None),
        ("imagenet_resized/32x32_jpeg", None),
    ],
)
def test_names_of_jpeg_copies(name, expected):
    assert split_jpeg_name(name) == expected


@pytest.mark.parametrize("quality", [0, 101, 10**30])
def test_qualities_that_libjpeg_lacks(quality):
    with pytest.raises(DatasetError, match=r"must be 1 to 100, got 'cifar10_jpeg"):
        split_jpeg_name(f"cifar10_jpeg{quality}")
