"""PyTorch exports of trained models, run by a module that knows nothing of flaxres."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.data.augment import normalize
from flaxres.inference.export import ExportError, write_export
from flaxres.inference.pretrained import load_pretrained
from tests.inference.test_pretrained import synthetic_images

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
nn, functional = torch.nn, torch.nn.functional


class Block(nn.Module):
    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.padding = planes - in_planes

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.padding))
        return functional.relu(x + y)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        planes = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = [Block(planes, width, 1 if stage == 1 else 2)]
            blocks += [Block(width, width, 1), Block(width, width, 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            planes = width
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def read(path):
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_logits_in_pytorch(name, tmp_path):
    trained = load_pretrained("resnet-20-cifar10_jpeg")
    output = tmp_path / name
    metadata = json.loads(write_export(trained, output, "torch").read_text())
    module = ResNet20().eval()
    module.load_state_dict(read(output), strict=True)
    images = synthetic_images()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(metadata["mean"])) / torch.tensor(metadata["std"])
    with torch.no_grad():
        logits = module(x).numpy()
    normalized = normalize(jnp.asarray(images), trained.input_spec.mean)
    expected = trained.logits(trained.variables, normalized)
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    assert metadata["class_names"][0] == "airplane"
    assert metadata["config"]["dataset"]["data_dir"] is None


def test_without_pytorch(tmp_path, monkeypatch):
    trained = load_pretrained("plain-20-cifar10_jpeg")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExportError, match=r"net\.pth needs PyTorch: pip install torch; --output="):
        write_export(trained, tmp_path / "net.pth")
    write_export(trained, tmp_path / "net.safetensors", "torch")
