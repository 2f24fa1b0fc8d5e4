"""RepVGG: depths, names, and logits compared with timm."""

import functools

import numpy as np
import pytest

from flaxres.config import check_config, default_config, model_name, set_model
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.models.repvgg import VARIANTS, stages_of_depth
from flaxres.models.repvgg_merging import merge_branches
from tests.conftest import quick_jit
from tests.models import torch_models
from tests.pretrained.torchvision_import import import_torchvision

CONVS = {"conv3x3": "kxk", "conv1x1": "1x1"}  # our names and those of timm


def test_depths():
    assert stages_of_depth(56, "cifar") == (9, 9, 9)
    assert stages_of_depth(22, "imagenet") == (2, 4, 14, 1)
    with pytest.raises(ValueError, match=r"6n\+2 .* got 21"):
        stages_of_depth(21, "cifar")
    with pytest.raises(ValueError, match="depth must be 22 or 28 with the ImageNet stem, got 50"):
        stages_of_depth(50, "imagenet")


def test_names_of_the_paper():
    """Parameters in millions of Ding21, table 4, where the deployed model is counted."""
    config = set_model(default_config(), "repvgg-a0", stem="imagenet")
    config.model.merged, config.model.norm = True, "none"
    check_config(config)
    assert model_name(config.model) == "repvgg-a0"
    layers = summarize(create_model(config.model, 1000), (224, 224, 3))
    assert sum(layer.params for layer in layers) == pytest.approx(8.30e6, abs=0.01e6)
    assert sum(layer.macs for layer in layers) == pytest.approx(1.4e9, abs=0.05e9)
    assert VARIANTS["b3"][1] == (192, 384, 768, 2560)


def test_logits_are_those_of_timm():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    import_torchvision()
    timm = pytest.importorskip("timm", reason="pip install timm==1.0.31")
    torch.manual_seed(0)
    theirs = torch_models.randomize(timm.create_model("repvgg_a0"))
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def conv(name):
        return {"kernel": weights[name].transpose(2, 3, 1, 0)}

    params, stats = {}, {}
    names = ["stem", *(f"stages.{s}.{i}" for s, n in enumerate((2, 4, 14, 1)) for i in range(n))]
    for name in names:
        prefixes = {"norm3x3": "conv_kxk.bn", "norm1x1": "conv_1x1.bn", "norm_identity": "identity"}
        norms = {norm: f"{name}.{prefix}" for norm, prefix in prefixes.items()}
        norms = {norm: prefix for norm, prefix in norms.items() if f"{prefix}.weight" in weights}
        layer = {size: conv(f"{name}.conv_{key}.conv.weight") for size, key in CONVS.items()}
        layer |= {
            norm: {"scale": weights[f"{prefix}.weight"], "bias": weights[f"{prefix}.bias"]}
            for norm, prefix in norms.items()
        }
        running = {
            norm: {
                "mean": weights[f"{prefix}.running_mean"],
                "var": weights[f"{prefix}.running_var"],
            }
            for norm, prefix in norms.items()
        }
        if name == "stem":
            params["conv"], stats["conv"] = layer, running
        else:
            _, stage, block = name.split(".")
            ours = f"stage{int(stage) + 1}_block{int(block) + 1}"
            params[ours], stats[ours] = {"conv1": layer}, {"conv1": running}
    params["dense"] = {"kernel": weights["head.fc.weight"].T, "bias": weights["head.fc.bias"]}
    variables = {"params": params, "batch_stats": stats}
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    config = set_model(default_config(), "repvgg-a0", stem="imagenet")
    model = create_model(config.model, 1000)
    merged = model.clone(merged=True, norm="none")
    for network, values in ((model, variables), (merged, merge_branches(variables))):
        logits = quick_jit(functools.partial(network.apply, train=False))(values, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
