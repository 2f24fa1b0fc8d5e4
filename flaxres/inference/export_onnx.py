"""ONNX exports: one file with weights, for ONNX Runtime and other programs that run ONNX graphs.

The graph has the input 'images', uint8 (n, height, width, channels) of the model's input size for
any n, and the output 'probabilities', float32 (n, classes). Mean image and weights are part of it.
The package jax2onnx converts it (requirements-onnx.txt), and ONNX Runtime checks it: an export
whose outputs differ from the model's is not written.

    session = onnxruntime.InferenceSession("model.onnx")
    (probabilities,) = session.run(None, {"images": images})
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxres.cpu import kernels
from flaxres.errors import UserError, one_line
from flaxres.inference.export_stablehlo import image_batch, probability_function
from flaxres.inference.trained_model import TrainedModel

INPUT, OUTPUT = "images", "probabilities"
TOLERANCE = 1e-4  # largest difference of a probability that is rounding
NUM_CHECKED = 3  # images


class OnnxError(UserError):
    """A model cannot be converted to ONNX."""


def metadata(trained: TrainedModel) -> dict[str, Any]:
    """Returns what the metadata of an export say about the graph."""
    return {
        "input": f"{INPUT}: uint8 (n, height, width, channels)",
        "output": f"{OUTPUT}: float32 (n, classes)",
    }


def serialize(trained: TrainedModel, output: Path) -> bytes:
    """Returns the content of an export.

    Raises:
      ImportError: jax2onnx or ONNX Runtime is not installed.
      OnnxError: the model cannot be converted, or the graph computes something else.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"writing {output} needs {error.name}: pip install jax2onnx onnxruntime"
        ) from None
    probabilities = probability_function(trained)
    with kernels.kernels_disabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = jax2onnx.to_onnx(
                probabilities,
                [image_batch(trained)],
                model_name=output.stem,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        except Exception as error:  # operations that jax2onnx lacks raise many types
            raise OnnxError(
                f"jax2onnx cannot convert {trained.name} ({one_line(error)})"
            ) from error
        del model.graph.value_info[:]  # shapes of intermediate results, some of them wrong
        content = model.SerializeToString()
        shape = (NUM_CHECKED, *trained.input_spec.image_shape)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = jax.jit(probabilities)(images)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {INPUT: images})
    except Exception as error:  # the runtime's own types
        raise OnnxError(
            f"ONNX Runtime cannot run the graph of {trained.name} ({one_line(error)})"
        ) from error
    if not np.allclose(result, expected, atol=TOLERANCE):
        raise OnnxError(
            f"the ONNX graph of {trained.name} gives other probabilities than the model (by "
            f"{np.abs(result - expected).max():.1e}); update jax2onnx, or use another --format"
        )
    return content
