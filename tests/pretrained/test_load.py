"""Files of variables and runs as the weights to begin with; hostile and damaged ones."""

import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization

from flaxres.data import load_dataset
from flaxres.errors import WeightsError, WorkdirError
from flaxres.pretrained.load import (
    check_fit,
    read_variables,
    write_variables,
)
from flaxres.run.checkpoint import CHECKPOINTS_DIRECTORY, Checkpoints
from flaxres.run.workdir import open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.initial_weights import load_pretrained_weights, read_run_variables
from tests.conftest import small_config


@pytest.fixture(scope="module")
def compiled_steps():
    config = small_config()
    return CompiledSteps(config, load_dataset(config.dataset))


def shapes_of(compiled_steps):
    return {name: getattr(compiled_steps.state_shape, name) for name in ("params", "batch_stats")}


@pytest.fixture(scope="module")
def variables(compiled_steps):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes_of(compiled_steps)
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def write_run(workdir, config, compiled_steps, variables, steps=(5, 10)):
    """A run of two checkpoints; the weights of the older one are all doubled."""
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), compiled_steps.state_shape)
    with open_workdir(workdir, config, {}), Checkpoints(workdir, keep=3) as checkpoints:
        for step in steps:
            factor = 1 if step == steps[-1] else 2
            own = jax.tree.map(lambda leaf, factor=factor: factor * leaf, variables)
            checkpoints.save(step, state.replace(step=np.int32(step), **own))


def files_of(directory):
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in directory.rglob("*")
    }


def test_round_trip(tmp_path, variables):
    path = tmp_path / "net.msgpack"
    path.write_text("what was there before")
    write_variables(path, jax.tree.map(jnp.asarray, variables))
    assert_same(read_variables(path), variables)
    assert serialization.msgpack_restore(path.read_bytes()).keys() == variables.keys()
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary


def test_what_cannot_be_written_leaves_the_file(tmp_path, variables, monkeypatch):
    path = tmp_path / "net.msgpack"
    write_variables(path, variables)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_variables(path, {"params": {}})
    assert_same(read_variables(path), variables)
    assert list(tmp_path.iterdir()) == [path]


def test_nets_without_statistics(tmp_path):
    params = {"dense": {"bias": np.ones(3, np.float32)}}
    write_variables(tmp_path / "net.msgpack", {"params": params})
    held = {"params": params, "batch_stats": {}}
    model = small_config().model
    assert_same(load_pretrained_weights(tmp_path / "net.msgpack", held, model), held)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_training_begins_with_them(tmp_path, variables, num_replicas):
    config = small_config()
    config.num_replicas = num_replicas
    config.init_from = str(tmp_path / "net.msgpack")
    write_variables(tmp_path / "net.msgpack", variables)
    state = CompiledSteps(config, load_dataset(config.dataset)).initial_state()
    for i in range(num_replicas):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], state) if num_replicas > 1 else state
        assert_same(jax.device_get(own.variables), variables)
        assert int(own.seed) == config.seed + i


def without(tree, *names):
    return {name: leaf for name, leaf in tree.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v | {"params": without(v["params"], "dense")},
            r"x\.msgpack is not of this resnet-8: it has no params/dense/bias, params/dense/kernel",
        ),
        (
            lambda v: v | {"batch_stats": {}},
            r"it has no batch_stats/norm/mean, batch_stats/norm/var, "
            r"batch_stats/stage1_block1/norm1/mean and 11 more",
        ),
        (
            lambda v: v | {"params": v["params"] | {"gate": {"bias": np.zeros(3, np.float32)}}},
            "the net has no place for params/gate/bias",
        ),
        (
            lambda v: v | {"params": v["params"] | {"norm": {"scale": np.ones(5), "bias": 1.0}}},
            r"other shapes are params/norm/bias float for float32 \(4,\), params/norm/scale "
            r"float64 \(5,\) for float32 \(4,\)",
        ),
        (
            lambda v: (
                v | {"params": v["params"] | {"conv": {"kernel": np.ones((3, 3, 1, 4), int)}}}
            ),
            r"other shapes are params/conv/kernel int64 \(3, 3, 1, 4\) for float32 \(3, 3, 1, 4\)",
        ),
        (
            lambda v: v | {"params": {"dense": {"bias": np.ones(2, np.float32)}, "x": np.ones(1)}},
            r"it has no .* and \d+ more; the net has no place for params/x; other shapes are "
            r"params/dense/bias float32 \(2,\) for float32 \(10,\)",
        ),
    ],
)
def test_files_of_other_nets(compiled_steps, variables, change, message):
    with pytest.raises(WeightsError, match=message) as caught:
        check_fit(change(variables), shapes_of(compiled_steps), small_config().model, "x.msgpack")
    assert "\n" not in str(caught.value)


class Command:
    """What a hostile pickle would hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_hold_no_variables(tmp_path, variables):
    whole = serialization.to_bytes(variables)
    objects = msgpack.packb(((2,), "object", b"12345678" * 2))  # pointers, to NumPy
    damaged = {
        "cut": whole[:-20],
        "longer": whole + b"\0",
        "empty": b"",
        "text": b"weights",
        "header": b"\xff" * 40 + whole[40:],
        "pickle": pickle.dumps(Command(tmp_path / "made")),
        "objects": msgpack.packb({"params": msgpack.ExtType(1, objects)}),
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.msgpack").write_bytes(content)
        with pytest.raises(WeightsError, match=name) as caught:
            read_variables(tmp_path / f"{name}.msgpack")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    for content, given in (
        ({"params": {}, "opt_state": {}}, "'opt_state', 'params'"),
        ({"batch_stats": {}}, "'batch_stats'"),
        ([1, 2], "list"),
    ):
        (tmp_path / "other.msgpack").write_bytes(serialization.msgpack_serialize(content))
        message = f"must hold a dict of 'params' and 'batch_stats', got {given}"
        with pytest.raises(WeightsError, match=message):
            read_variables(tmp_path / "other.msgpack")


def test_names_that_are_numbers_and_lists_are_refused_in_one_line(tmp_path):
    path = tmp_path / "other.msgpack"
    path.write_bytes(msgpack.packb({"params": {"dense": [1.0, 2.0], 7: {"kernel": 1.0}}}))
    model = small_config().model
    with pytest.raises(WeightsError, match=r"no place for params/dense, params/7/kernel$"):
        load_pretrained_weights(path, {"params": {}, "batch_stats": {}}, model)


def test_the_newest_checkpoint_of_a_run(tmp_path, compiled_steps, variables, capsys):
    write_run(tmp_path / "run", small_config(), compiled_steps, variables)
    before = files_of(tmp_path)
    assert_same(read_run_variables(tmp_path / "run"), variables)
    found = load_pretrained_weights(
        tmp_path / "run", shapes_of(compiled_steps), small_config().model
    )
    assert_same(found, variables)
    other = small_config()
    other.model.depth = 14
    shapes = shapes_of(CompiledSteps(other, load_dataset(other.dataset)))
    with pytest.raises(WeightsError, match="is not of this resnet-14: it has no params/stage1_"):
        load_pretrained_weights(tmp_path / "run", shapes, other.model)
    assert files_of(tmp_path) == before

    for part in (tmp_path / "run" / CHECKPOINTS_DIRECTORY / "10" / "state").rglob("*"):
        if part.is_file():
            part.write_bytes(b"x" * part.stat().st_size)
    before = files_of(tmp_path)
    assert_same(
        read_run_variables(tmp_path / "run"), jax.tree.map(lambda leaf: 2 * leaf, variables)
    )
    assert "checkpoint 10 is damaged" in capsys.readouterr().err
    assert files_of(tmp_path) == before  # left to the run itself

    shutil.rmtree(tmp_path / "run" / CHECKPOINTS_DIRECTORY)
    with pytest.raises(WeightsError, match=r"run .*run holds no checkpoint yet; train it first"):
        read_run_variables(tmp_path / "run")


def test_directories_that_are_no_run_of_a_net(tmp_path, compiled_steps):
    with pytest.raises(WeightsError, match=r"holds no run: there is no config\.json\. Give"):
        load_pretrained_weights(tmp_path, shapes_of(compiled_steps), small_config().model)
    with pytest.raises(WeightsError, match=r"there is no file .*absent"):
        load_pretrained_weights(tmp_path / "absent", {}, small_config().model)
    config = small_config()
    config.num_replicas = 2
    with open_workdir(tmp_path / "two", config, {}):
        pass
    with pytest.raises(WeightsError, match="two holds a run of 2 replicas"):
        read_run_variables(tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json cannot be read"):
        read_run_variables(tmp_path / "two")
