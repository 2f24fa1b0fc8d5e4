"""The PyTorch model has the paper's parameter count, and flaxres's logits from the same weights."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from flaxres.config import default_config, set_model
from flaxres.models import create_model

torch = pytest.importorskip("torch", reason="pip install torch")
torch_peer = pytest.importorskip("benchmarks.torch_peer")


@pytest.mark.parametrize(
    ("name", "params"), [("resnet-20", 269_722), ("plain-20", 269_722), ("resnet-18", 11_173_962)]
)
def test_logits_from_the_same_weights(name, params):
    fields = set_model(default_config(), name).model
    peer = torch_peer.make_peer(fields.name, fields.depth, 3, fields.widths)
    assert sum(p.numel() for p in peer.parameters()) == params
    model = create_model(fields, 10)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), images, train=True)
    peer.load(jax.device_get(traverse_util.flatten_dict(variables, sep="/")))
    logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    peer_logits = peer(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(logits, peer_logits.detach().numpy(), rtol=1e-3, atol=1e-3)


def test_crops_and_flips_are_parts_of_the_padded_image():
    images = torch.arange(8 * 4 * 4 * 1.0).reshape(8, 4, 4, 1) + 1
    torch.manual_seed(0)
    assert torch.equal(torch_peer.random_crop_flip(images, 0, False), images)
    cropped = torch_peer.random_crop_flip(images.repeat(50, 1, 1, 1), 1, True)
    padded = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1)).repeat(50, 1, 1, 1)
    seen = set()
    for crop, image in zip(cropped, padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(3)
            for left in range(3)
            for flip in (False, True)
            if torch.equal(crop, image[top : top + 4, left : left + 4].flip(1 if flip else ()))
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 18
    flipped = torch_peer.random_crop_flip(images, 0, True)
    mirrored = [not torch.equal(*pair) for pair in zip(flipped, images, strict=True)]
    assert 0 < sum(mirrored) < 8
    for i, mirror in enumerate(mirrored):
        assert torch.equal(flipped[i], images[i].flip(1 if mirror else ()))


def test_names_of_modes():
    mode = torch_peer.Mode.parse("graph-cast-compiled", "bfloat16")
    assert mode == torch_peer.Mode(torch.bfloat16, graph=True, cast=True, compiled=True)
    mode = torch_peer.Mode.parse("eager", "float32")
    assert mode == torch_peer.Mode(torch.float32, graph=False, cast=False, compiled=False)
    for name in ("fast", "cast", "eager-compiled"):
        with pytest.raises(ValueError, match=name):
            torch_peer.Mode.parse(name, "float32")
