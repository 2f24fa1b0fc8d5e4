"""Settings that make XLA's CPU backend fast for these nets; without effect on accelerators."""

from __future__ import annotations

import os

import jaxlib

# jaxlib's YNNPACK convolutions are slow for the gradients of small filters. XLA aborts the process
# on a flag that it does not know, so it is set only for versions where it was tried.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
KNOWN_VERSIONS = ("0.10.", "0.11.")


def tune() -> None:
    """Adds to XLA_FLAGS; call it before JAX is first used. The user's own flags win."""
    flags = os.environ.get("XLA_FLAGS", "")
    if CONVOLUTION_FLAG not in flags and jaxlib.__version__.startswith(KNOWN_VERSIONS):
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}=-individual_convolution".strip()
