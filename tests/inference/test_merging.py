"""Trained models in the form for deployment, and their exports."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.inference.export import write_export
from flaxres.inference.merging import merge
from flaxres.inference.pretrained import load_pretrained, save_weights
from tests.inference.test_trained_model import random_model
from tests.models.trained_values import with_trained_norms

IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))


def trained_model(name):
    trained = random_model(name, widths=(4, 8, 8))
    trained.variables.update(with_trained_norms(trained.variables))
    return trained


@pytest.mark.parametrize(("name", "family"), [("repvgg-8", "repvgg"), ("dirac-8", "plain")])
def test_merged_models_have_equal_logits_and_are_saved(tmp_path, name, family):
    trained = trained_model(name)
    expected = trained.logits(trained.variables, IMAGES)
    merged = merge(trained)
    assert merged.config.model.name == family
    assert trained.config.model.name == name.partition("-")[0]
    np.testing.assert_allclose(
        merged.logits(merged.variables, IMAGES), expected, rtol=1e-3, atol=1e-4
    )
    save_weights(merged, tmp_path / "merged.safetensors")
    loaded = load_pretrained(str(tmp_path / "merged.safetensors"))
    np.testing.assert_allclose(
        loaded.logits(loaded.variables, IMAGES), expected, rtol=1e-3, atol=1e-4
    )
    assert merge(merged) is merged


def test_exports_are_merged(tmp_path):
    trained = trained_model("repvgg-8")
    output = tmp_path / "model.stablehlo"
    metadata = json.loads(write_export(trained, output).read_text())
    assert metadata["net"] == "repvgg-8"
    assert metadata["config"]["model"]["merged"]
    exported = jax.export.deserialize(bytearray(output.read_bytes()))
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    normalized = jnp.asarray(images, jnp.float32) / 255 - trained.input_spec.mean
    logits = trained.logits(trained.variables, normalized)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(exported.call(images), expected, atol=1e-4)
