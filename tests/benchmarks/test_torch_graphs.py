"""PyTorch's CUDA graphs: losses of their replays, and the dtype that they compute in.

`Recording` stands in for a graph on the GPU. It keeps what a graph keeps, the operations with their
arguments and the memory of their results, and repeats them on that memory.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")
torch_peer = pytest.importorskip("benchmarks.torch_peer")
torch_training = pytest.importorskip("benchmarks.torch_training")
torch_evaluation = pytest.importorskip("benchmarks.torch_evaluation")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

LEARNING_RATE = 0.3


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, kept in self.operations:
                memory = set(map(storage, tree_leaves((args, kwargs))))
                result = function(*args, **kwargs)
                for old, new in zip(tree_leaves(kept), tree_leaves(result), strict=True):
                    if storage(old) not in {None, *memory}:  # neither a view nor an argument
                        old.copy_(new)


def storage(value):
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else None


def record(function, prepare):
    for _ in range(2):
        function()
    prepare()
    with Recording() as recording:
        function()
    return recording


@pytest.fixture(autouse=True)
def recorded_graphs(monkeypatch):
    monkeypatch.setattr(torch_training, "capture", record)
    monkeypatch.setattr(torch_evaluation, "capture", record)


def make_model_and_weights():
    torch.manual_seed(0)
    model = torch_peer.PeerResNet(8, False, 3, (4, 8, 16))
    weights = {}
    for name, value in model.state_dict().items():
        path = name.removeprefix("blocks.").split(".")
        array = value.numpy().copy()
        if path[-1] == "num_batches_tracked":
            continue
        is_statistic = path[-1].startswith("running_")
        array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else range(array.ndim)[::-1])
        renamed = {"running_mean": "mean", "running_var": "var", "weight": "kernel"}
        if path[-1] == "weight" and array.ndim == 1:
            renamed["weight"] = "scale"
        path[-1] = renamed.get(path[-1], path[-1])
        weights["/".join(["batch_stats" if is_statistic else "params", *path])] = array
    return model, weights


def make_batch(size=16):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (size, 8, 8, 3), dtype=np.uint8))
    return images, torch.from_numpy(rng.integers(0, 10, size))


def training_losses(mode, dtype):
    model, weights = make_model_and_weights()
    images = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8)
    training = torch_training.Training(model, torch_peer.Mode.parse(mode, dtype), 16, images, True)
    training.advance()
    losses, logits = training.checked_losses(weights, *make_batch(), 3, LEARNING_RATE)
    training.advance()
    training.wait()
    return losses, torch_training.is_bfloat16(logits)


def plain_losses():
    """Losses by an own loop in float32, without the class for training."""
    model, weights = make_model_and_weights()
    model.load(weights)
    images, labels = make_batch()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=1e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(images.permute(0, 3, 1, 2).float() / 255)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("mode", ["eager", "graph-eager"])
def test_losses_of_training(mode):
    losses, in_bfloat16 = training_losses(mode, "float32")
    np.testing.assert_allclose(losses, plain_losses(), rtol=1e-5)
    assert not in_bfloat16
    losses, in_bfloat16 = training_losses(mode, "bfloat16")
    np.testing.assert_allclose(losses, plain_losses(), rtol=0.05)
    assert in_bfloat16


def test_a_float32_graph_captured_in_bfloat16_is_noticed(monkeypatch):
    def bfloat16_logits(self, model, images):
        with torch.autocast("cpu", torch.bfloat16):
            return model(images).float()

    monkeypatch.setattr(torch_peer.Mode, "logits", bfloat16_logits)
    losses, in_bfloat16 = training_losses("graph-eager", "float32")
    np.testing.assert_allclose(losses, plain_losses(), rtol=0.02)  # within the tolerance
    assert in_bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prefix", ["", "cast-"])
def test_losses_of_evaluation(prefix, dtype):
    results = {}
    for graph in ("", "graph-"):
        model, weights = make_model_and_weights()
        images = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8)
        mode = torch_peer.Mode.parse(f"{graph}{prefix}eager", dtype)
        evaluation = torch_evaluation.Evaluation(model, mode, 16, images)
        assert evaluation.advance() == 64
        losses, logits = evaluation.checked_losses(weights, *make_batch())
        assert torch_training.is_bfloat16(logits) == (dtype == "bfloat16")
        model.load(weights)
        inputs = make_batch()[0].permute(0, 3, 1, 2).float() / 255
        expected = torch.nn.functional.cross_entropy(model.float()(inputs), make_batch()[1]).item()
        assert losses == pytest.approx([expected], rel=1e-5 if dtype == "float32" else 0.03)
        results[graph] = losses
    assert results[""] == results["graph-"]
