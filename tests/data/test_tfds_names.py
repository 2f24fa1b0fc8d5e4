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


@pytest.mark.parametrize("quality", ["007", "075", "9" * 5000])
def test_qualities_that_are_not_numbers_from_1_to_100_in_their_only_form(quality):
    """A copy has one name only, and Python converts no integers of 5,000 digits."""
    with pytest.raises(DatasetError, match=r"must be 1 to 100, got 'tiny_jpeg") as caught:
        split_jpeg_name(f"tiny_jpeg{quality}")
    assert len(str(caught.value)) < 300
    assert ("no leading zeros" in str(caught.value)) == quality.startswith("0")
