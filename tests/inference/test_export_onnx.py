"""ONNX exports, run by ONNX Runtime."""

import sys

import numpy as np
import pytest

from flaxres.inference.export import ExportError, write_export
from flaxres.inference.export_onnx import OnnxError
from flaxres.inference.predictor import Predictor
from tests.inference.test_trained_model import random_model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of jax2onnx
def test_probabilities_in_onnx_runtime(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    jax2onnx = pytest.importorskip("jax2onnx", reason="pip install -r requirements-onnx.txt")
    trained = random_model("resnet-8", widths=(4, 8, 8))
    output = tmp_path / "net.onnx"
    write_export(trained, output)
    session = onnxruntime.InferenceSession(output)
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    expected = np.exp(Predictor([trained], trained.config).launch(images, 5))
    for count in (1, 5):
        (result,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(result, expected[:count], atol=1e-5)
    convert = jax2onnx.to_onnx

    def convert_wrongly(function, *args, **options):
        return convert(lambda x: function(x)[:, ::-1], *args, **options)

    monkeypatch.setattr(jax2onnx, "to_onnx", convert_wrongly)
    with pytest.raises(OnnxError, match="gives other probabilities than the model"):
        write_export(trained, output)


def test_without_jax2onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match=r"net\.onnx needs jax2onnx: pip install jax2onnx"):
        write_export(random_model("lenet-5"), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
