"""Pretrained weights from files of variables and from runs, damaged and hostile files included."""

import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization

from flaxres.config import set_model
from flaxres.data import load_dataset
from flaxres.errors import WeightsError, WorkdirError
from flaxres.pretrained.load import (
    check_fit,
    read_variables,
    write_variables,
)
from flaxres.run.checkpoint import CHECKPOINTS_DIRECTORY, Checkpoints
from flaxres.run.workdir import open_workdir
from flaxres.training import initial_weights
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.initial_weights import load_pretrained_weights, read_run_variables
from tests.conftest import small_config
from tests.hostile_command import HostileCommand


@pytest.fixture(scope="module")
def compiled_steps():
    config = small_config()
    return CompiledSteps(config, load_dataset(config.dataset))


def variable_shapes(compiled_steps):
    return {name: getattr(compiled_steps.state_shape, name) for name in ("params", "batch_stats")}


@pytest.fixture(scope="module")
def variables(compiled_steps):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variable_shapes(compiled_steps)
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def write_run(workdir, config, compiled_steps, variables, steps=(5, 10)):
    """Writes a run with two checkpoints. The older one holds the weights times two."""
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), compiled_steps.state_shape)
    with open_workdir(workdir, config, {}), Checkpoints(workdir, keep=3) as checkpoints:
        for step in steps:
            factor = 1 if step == steps[-1] else 2
            scaled = jax.tree.map(lambda leaf, factor=factor: factor * leaf, variables)
            checkpoints.save(step, state.replace(step=np.int32(step), **scaled))


def snapshot_files(directory):
    """Returns the modification time and the content of every file, by path."""
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in directory.rglob("*")
    }


def test_round_trip(tmp_path, variables):
    path = tmp_path / "model.msgpack"
    path.write_text("old content")
    write_variables(path, jax.tree.map(jnp.asarray, variables))
    assert_same(read_variables(path), variables)
    assert serialization.msgpack_restore(path.read_bytes()).keys() == variables.keys()
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_failed_write_keeps_the_old_file(tmp_path, variables, monkeypatch):
    path = tmp_path / "model.msgpack"
    write_variables(path, variables)

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_variables(path, {"params": {}})
    assert_same(read_variables(path), variables)
    assert list(tmp_path.iterdir()) == [path]


def test_models_without_batch_statistics(tmp_path):
    params = {"dense": {"bias": np.ones(3, np.float32)}}
    write_variables(tmp_path / "model.msgpack", {"params": params})
    variables = {"params": params, "batch_stats": {}}
    model = small_config().model
    assert_same(load_pretrained_weights(tmp_path / "model.msgpack", variables, model), variables)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_training_starts_from_a_file_of_variables(tmp_path, variables, num_replicas):
    config = small_config()
    config.num_replicas = num_replicas
    config.init_from = str(tmp_path / "model.msgpack")
    write_variables(tmp_path / "model.msgpack", variables)
    state = CompiledSteps(config, load_dataset(config.dataset)).initial_state()
    for i in range(num_replicas):
        replica = jax.tree.map(lambda leaf, i=i: leaf[i], state) if num_replicas > 1 else state
        assert_same(jax.device_get(replica.variables), variables)
        assert int(replica.seed) == config.seed + i


def without(tree, *names):
    return {name: leaf for name, leaf in tree.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v | {"params": without(v["params"], "dense")},
            r"x\.msgpack does not fit the model resnet-8: missing params/dense/bias, "
            r"params/dense/kernel",
        ),
        (
            lambda v: v | {"batch_stats": {}},
            r"missing batch_stats/norm/mean, batch_stats/norm/var, "
            r"batch_stats/stage1_block1/norm1/mean and 11 more",
        ),
        (
            lambda v: v | {"params": v["params"] | {"gate": {"bias": np.zeros(3, np.float32)}}},
            "unexpected params/gate/bias",
        ),
        (
            lambda v: v | {"params": v["params"] | {"norm": {"scale": np.ones(5), "bias": 1.0}}},
            r"wrong shape or dtype: params/norm/bias is float instead of float32 \(4,\), "
            r"params/norm/scale is float64 \(5,\) instead of float32 \(4,\)",
        ),
        (
            lambda v: (
                v | {"params": v["params"] | {"conv": {"kernel": np.ones((3, 3, 1, 4), int)}}}
            ),
            r"wrong shape or dtype: params/conv/kernel is int64 \(3, 3, 1, 4\) instead of "
            r"float32 \(3, 3, 1, 4\)",
        ),
        (
            lambda v: v | {"params": {"dense": {"bias": np.ones(2, np.float32)}, "x": np.ones(1)}},
            r"missing .* and \d+ more; unexpected params/x; wrong shape or dtype: "
            r"params/dense/bias is float32 \(2,\) instead of float32 \(10,\)",
        ),
    ],
)
def test_variables_of_another_model_are_rejected(compiled_steps, variables, change, message):
    with pytest.raises(WeightsError, match=message) as caught:
        check_fit(
            change(variables), variable_shapes(compiled_steps), small_config().model, "x.msgpack"
        )
    assert "\n" not in str(caught.value)


def test_files_without_variables_are_rejected(tmp_path, variables):
    content = serialization.to_bytes(variables)
    objects = msgpack.packb(((2,), "object", b"12345678" * 2))  # NumPy reads them as pointers
    damaged = {
        "truncated": content[:-20],
        "longer": content + b"\0",
        "empty": b"",
        "text": b"weights",
        "header": b"\xff" * 40 + content[40:],
        "pickle": pickle.dumps(HostileCommand(tmp_path / "made")),
        "objects": msgpack.packb({"params": msgpack.ExtType(1, objects)}),
    }
    for name, damaged_content in damaged.items():
        (tmp_path / f"{name}.msgpack").write_bytes(damaged_content)
        with pytest.raises(WeightsError, match=name) as caught:
            read_variables(tmp_path / f"{name}.msgpack")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    for other_content, given in (
        ({"params": {}, "opt_state": {}}, "'opt_state', 'params'"),
        ({"batch_stats": {}}, "'batch_stats'"),
        ([1, 2], "list"),
    ):
        (tmp_path / "other.msgpack").write_bytes(serialization.msgpack_serialize(other_content))
        message = f"must hold a dict of 'params' and 'batch_stats', got {given}"
        with pytest.raises(WeightsError, match=message):
            read_variables(tmp_path / "other.msgpack")


def test_numbers_as_names_and_lists_as_leaves_are_rejected(tmp_path):
    path = tmp_path / "other.msgpack"
    path.write_bytes(msgpack.packb({"params": {"dense": [1.0, 2.0], 7: {"kernel": 1.0}}}))
    model = small_config().model
    with pytest.raises(WeightsError, match=r"unexpected params/dense, params/7/kernel$"):
        load_pretrained_weights(path, {"params": {}, "batch_stats": {}}, model)


def test_newest_valid_checkpoint_of_a_run(tmp_path, compiled_steps, variables, capsys):
    write_run(tmp_path / "run", small_config(), compiled_steps, variables)
    before = snapshot_files(tmp_path)
    assert_same(read_run_variables(tmp_path / "run"), variables)
    loaded = load_pretrained_weights(
        tmp_path / "run", variable_shapes(compiled_steps), small_config().model
    )
    assert_same(loaded, variables)
    assert not capsys.readouterr().err
    plain = small_config().model
    plain.name, plain.shortcut, plain.init_gain = "plain", "none", 2.0
    load_pretrained_weights(tmp_path / "run", variable_shapes(compiled_steps), plain)
    message = f"note: run {tmp_path / 'run'} was trained with model.name 'resnet', not 'plain', "
    assert capsys.readouterr().err == f"{message}model.shortcut 'A', not 'none'\n"
    other = small_config()
    other.model.depth = 14
    shapes = variable_shapes(CompiledSteps(other, load_dataset(other.dataset)))
    with pytest.raises(
        WeightsError, match="does not fit the model resnet-14: missing params/stage1_"
    ):
        load_pretrained_weights(tmp_path / "run", shapes, other.model)
    assert snapshot_files(tmp_path) == before

    for part in (tmp_path / "run" / CHECKPOINTS_DIRECTORY / "10" / "state").rglob("*"):
        if part.is_file():
            part.write_bytes(b"x" * part.stat().st_size)
    before = snapshot_files(tmp_path)
    assert_same(
        read_run_variables(tmp_path / "run"), jax.tree.map(lambda leaf: 2 * leaf, variables)
    )
    assert "checkpoint 10 is damaged" in capsys.readouterr().err
    assert snapshot_files(tmp_path) == before  # only the run itself moves damaged checkpoints

    shutil.rmtree(tmp_path / "run" / CHECKPOINTS_DIRECTORY)
    with pytest.raises(WeightsError, match=r"run .*run holds no checkpoint yet; train it first"):
        read_run_variables(tmp_path / "run")


def test_directories_without_a_run_of_a_single_model(tmp_path, compiled_steps):
    with pytest.raises(WeightsError, match=r"holds no run: there is no config\.json\. Give"):
        load_pretrained_weights(tmp_path, variable_shapes(compiled_steps), small_config().model)
    with pytest.raises(WeightsError, match=r"--init_from=.*absent does not exist; give a"):
        load_pretrained_weights(tmp_path / "absent", {}, small_config().model)
    config = small_config()
    config.num_replicas = 2
    with open_workdir(tmp_path / "two", config, {}):
        pass
    with pytest.raises(WeightsError, match="two holds a run of 2 replicas"):
        read_run_variables(tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json is not valid JSON"):
        read_run_variables(tmp_path / "two")


def test_a_note_says_that_weights_were_trained_with_another_activation(tmp_path, capsys):
    trained, model = (set_model(small_config(), "plain-8").model for _ in range(2))
    trained.update({"norm": "none", "activation": "tailored-relu"})
    model.norm = "none"
    initial_weights._compare_models(tmp_path, trained, model)
    message = "was trained with model.activation 'tailored-relu', not 'relu'\n"
    assert capsys.readouterr().err.endswith(message)
