"""ConvNeXt, compared with timm's."""

import jax
import numpy as np
import pytest

from flaxres.models.convnext import ConvNext
from tests.conftest import init, outputs_of_layers, quick_jit

STAGES, WIDTHS = (1, 1, 2, 1), (8, 16, 24, 32)


def images_of(size):
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


def convert(module):
    """Returns the variables of `ConvNext` with the weights of timm's module."""
    params = {}
    for name, value in module.state_dict().items():
        value = value.numpy()
        *path, kind = name.split(".")
        path = ".".join(path)
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        if path.startswith("stages"):
            _, stage, part, *rest = path.split(".")
            stage = int(stage) + 1
            if part == "downsample":
                layer = [f"stage{stage}_{'norm' if rest == ['0'] else 'conv'}"]
            else:
                renamed = {
                    "conv_dw": "conv1",
                    "norm": "norm",
                    "mlp.fc1": "conv2",
                    "mlp.fc2": "conv3",
                }
                inner = ".".join(rest[1:])
                layer = [
                    f"stage{stage}_block{int(rest[0]) + 1}",
                    renamed.get(inner, "branch_scale"),
                ]
        else:
            layer = {
                "stem.0": ["conv"],
                "stem.1": ["norm"],
                "head.norm": ["last_norm"],
                "head.fc": ["dense"],
            }[path]
        is_norm = layer[-1].endswith("norm")
        kind = "scale" if kind == "gamma" or (is_norm and kind == "weight") else kind
        kind = "kernel" if kind == "weight" else kind
        if kind == "kernel" and value.ndim == 2:
            value = value.T if layer == ["dense"] else value.T[None, None]
        tree = params
        for key in layer:
            tree = tree.setdefault(key, {})
        tree[kind] = value
    return {"params": params}


def test_logits_of_timm():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    from tests.pretrained.torchvision_import import import_torchvision

    import_torchvision()
    convnext = pytest.importorskip("timm.models.convnext", reason="pip install timm==1.0.31")
    torch.manual_seed(0)
    theirs = convnext.ConvNeXt(depths=STAGES, dims=WIDTHS, num_classes=10).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.3)
    model = ConvNext(
        stages=STAGES,
        widths=WIDTHS,
        num_classes=10,
        norm="layer-channels",
        norm_epsilon=1e-6,
    )
    images = images_of(64)
    variables = convert(theirs)
    shapes = jax.tree.map(np.shape, init(model, images))
    assert jax.tree.map(np.shape, variables) == shapes
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    logits = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_small_images():
    model = ConvNext(
        stages=(1, 1, 1), widths=(8, 16, 16), stem="cifar", num_classes=10, norm="layer-channels"
    )
    images = images_of(9)
    variables = init(model, images)
    outputs = outputs_of_layers(model, variables, images)
    assert [outputs[f"stage{i}_block1"].shape[1] for i in (1, 2, 3)] == [9, 4, 2]
    # With factors of 1e-6 a block is nearly its shortcut.
    np.testing.assert_allclose(outputs["stage1_block1"], outputs["norm"], atol=1e-4)
    np.testing.assert_array_equal(
        variables["params"]["stage1_block1"]["branch_scale"]["scale"], np.full(8, np.float32(1e-6))
    )
