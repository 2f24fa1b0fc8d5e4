"""State dicts in files: wrapped, of every dtype, damaged, and files that execute code."""

import collections
import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest

from flaxres.errors import WeightsError
from flaxres.pretrained.torch_file import read_state_dict
from tests.hostile_command import HostileCommand

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")

NAMES = ("conv1.weight", "bn1.weight", "fc.weight")


def tensors(prefix="", value=1.0):
    return {f"{prefix}{name}": torch.full((2, 3), value) for name in NAMES}


def read(path, content):
    torch.save(content, path)
    return read_state_dict(path)


def test_wrapped_state_dicts(tmp_path):
    parameters = {name: torch.nn.Parameter(value) for name, value in tensors().items()}
    optimizer = {"state": {0: {"momentum": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    metrics = {"loss": torch.ones(1)}
    other = {**tensors(value=2.0)}
    wrapped = (
        tensors(),
        parameters,
        collections.OrderedDict(tensors()),
        *({key: tensors()} for key in ("net", "state_dict", "model", "model_state_dict", "ema")),
        {"epoch": 3, "arch": "resnet20", "best": 91.7, "optimizer": optimizer, "net": parameters},
        {"model": "resnet20", "state_dict": tensors(), "metrics": metrics, 0: None},
        {"model": {"state_dict": tensors("module.")}, "scaler": {}},
        {"model": tensors(), "model_ema": other},
        {"state_dict": tensors(), "state_dict_ema": other, "optimizer": optimizer},
        {"state_dict_ema": tensors(), "epoch": 3},
        {"generator": tensors(), "epoch": torch.tensor(3)},
        {"state_dict": tensors(), "head": other},
        *(
            tensors(prefix)
            for prefix in (
                *("module.", "model.", "_orig_mod.", "net.", "backbone.", "module._orig_mod."),
                *("_orig_mod.module.", "model.module.backbone."),
            )
        ),
        {"n_averaged": torch.tensor(3), **tensors("module.")},
        {"bn1.num_batches_tracked": torch.tensor(3), **tensors()},
    )
    for content in wrapped:
        arrays = read(tmp_path / "model.pth", content)
        assert set(arrays) == set(NAMES), content.keys()
        assert all((array == 1).all() for array in arrays.values()), content.keys()


def test_prefixes_stay_unless_all_names_share_them(tmp_path):
    for content in (
        {**tensors("module."), "fc.bias": torch.ones(3)},
        {"model": torch.ones(3)},
        {"features.conv0.weight": torch.ones(3)},  # a DenseNet without its head
    ):
        assert set(read(tmp_path / "model.pth", content)) == set(content)


def test_dtypes(tmp_path):
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
    for dtype in (*kinds, torch.uint8, torch.bool, torch.complex64):
        content = {"a.weight": torch.tensor([[0.5, -2.0, 3.0], [0.0, 1.0, 4.0]]).T.to(dtype)}
        array = read(tmp_path / "model.pth", content)["a.weight"]
        assert str(array.dtype) == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(
            array.astype(np.complex64), content["a.weight"].to(torch.complex64)
        )
    conjugate = {"a.weight": torch.tensor([1 + 2j]).conj()}
    assert read(tmp_path / "model.pth", conjugate)["a.weight"].tolist() == [1 - 2j]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a future PyTorch has no quantized tensors
        quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    strange = {
        r"sparse_coo tensor of float32": torch.eye(3).to_sparse(),
        r"meta tensor of float32": torch.ones(3, device="meta"),
        r"strided tensor of float8_e4m3fn": torch.ones(3).to(torch.float8_e4m3fn),
        r"strided tensor of qint8": quantized,
    }
    for message, tensor in strange.items():
        with pytest.raises(WeightsError, match=rf"a\.weight must be .* got a {message}$"):
            read(tmp_path / "model.pth", {"a.weight": tensor})


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="pip install safetensors")
    path = tmp_path / "model.safetensors"
    content = tensors("module.") | {"module.half": torch.ones(3, dtype=torch.bfloat16)}
    safetensors.save_file(content, path)
    arrays = read_state_dict(path)
    assert set(arrays) == {*NAMES, "half"}
    assert (arrays["half"] == 1).all()
    damaged = (b"", b"weights", path.read_bytes()[:-1], b"\xff" * 8 + path.read_bytes()[8:])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.safetensors is damaged, or not") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"there is no file .*absent\.safetensors"):
        read_state_dict(tmp_path / "absent.safetensors")


def test_files_without_a_state_dict(tmp_path):
    loop = {"a": {}}
    loop["a"]["b"] = loop
    path, message = tmp_path / "model.pth", "must hold only tensors"
    cases = [
        (torch.zeros(3), r"is not a PyTorch state dict, .*; it holds a Tensor$"),
        ([torch.zeros(3)], "it holds a list$"),
        ({}, r"is not a PyTorch state dict, a dict of tensors by name$"),
        ({"epoch": 3}, r"a dict of tensors by name; not tensors: 'epoch' \(int\)$"),
        ({**tensors(), "a": None, "b": 1}, r"not tensors: 'a' \(NoneType\), 'b' \(int\)$"),
        (loop, r"not tensors: 'a' \(dict\)$"),
        ({0: torch.zeros(3), "a": torch.ones(3)}, r"names of tensors must be text, got 0$"),
        ({"model": {0: torch.zeros(3)}}, r"not tensors: 'model' \(dict\)$"),
        ({"net": {b"weight": torch.zeros(3), "weight": torch.ones(1)}}, r"text, got b'weight'$"),
        ({"student": tensors(), "teacher": tensors(value=2.0)}, r"several .*: student, teacher; "),
        ({"state_dict": tensors(), "model": tensors(value=2.0)}, "several .*: state_dict, model; "),
        ({"model.num_batches_tracked": torch.tensor(3)}, "holds no tensors$"),
        ({"model": HostileCommand(tmp_path / "made")}, message),
        (torch.nn.Linear(2, 2), message),
    ]
    for content, expected in cases:
        with pytest.raises(WeightsError, match=expected) as caught:
            read(path, content)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert not (tmp_path / "made").exists()
    with pytest.raises(WeightsError, match="there is no file"):
        read_state_dict(tmp_path / "absent.pth")


def test_damaged_files(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(tensors(), path)
    good = path.read_bytes()
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    assert set(read_state_dict(path)) == set(NAMES)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with zipfile.ZipFile(io.BytesIO(good)) as source:
            for name in source.namelist():
                archive.writestr(name, source.read(name))
        archive.writestr("model/data/99", bytes(10**7))
    rng = np.random.default_rng(0)
    damaged = [b"", b"weights", bytes(100), pickle.dumps(HostileCommand(tmp_path / "made"))]
    damaged += [bomb.getvalue(), pickle.dumps({"a": [1] * 3}), b"\x80\x02" + b"(" * 10_000 + b"."]
    for content in (good, legacy):
        damaged += [content[:-1], content[: len(content) // 2], content[1:], content[:50]]
        for _ in range(40):
            changed = bytearray(content)
            for position in rng.integers(0, len(content), 8):
                changed[position] = rng.integers(256)
            damaged.append(bytes(changed))
    messages = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read_state_dict(path)  # some changes only touch the numbers
        except WeightsError as error:
            messages.append(str(error))
    assert len(messages) > len(damaged) / 2
    assert not any("\n" in message or len(message) > 500 for message in messages)
    assert not (tmp_path / "made").exists()
    path.write_bytes(bomb.getvalue())
    with pytest.raises(WeightsError, match="is a compressed archive"):
        read_state_dict(path)
