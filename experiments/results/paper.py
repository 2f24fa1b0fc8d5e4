"""Errors of He et al. 2015 (arXiv 1512.03385), with which tables and figures compare results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUM_STEPS = 64_000  # He15, section 4.2

# Test error on CIFAR-10 in percent, He15, table 6; the paper has only curves of plain networks.
TEST_ERRORS = {
    "resnet-20": 8.75,
    "resnet-32": 7.51,
    "resnet-44": 7.17,
    "resnet-56": 6.97,
    "resnet-110": 6.61,  # mean of 5 runs, ± 0.16; the best run has 6.43
    "resnet-1202": 7.93,
}


def has_cifar10_test_set(config: Mapping[str, Any]) -> bool:
    """Returns True if errors are of all CIFAR-10 test images, like those of the paper.

    The re-encoded images of cifar10_jpeg count too. Errors on them are not exactly comparable to
    those of the paper, so tables and figures name the paper's images.

    Args:
      config: fields of the config by dotted name.
    """
    if config.get("dataset.classes"):
        return False
    name = str(config["dataset.name"]).split(":")[0]
    return name in ("cifar10", "cifar10_jpeg") and config["dataset.test_split"] == "test"
