"""Fine-tuning: frozen layers, the learning rate of the backbone, and a new head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from flaxres.config import default_config, set_model
from flaxres.data import load_dataset
from flaxres.errors import ConfigError, WeightsError
from flaxres.inference.population_statistics import population_statistics
from flaxres.models import create_model
from flaxres.models.layers import is_frozen
from flaxres.pretrained.load import write_variables
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.fine_tuning import frozen_leaves, update_params
from flaxres.training.initial_weights import load_pretrained_weights, read_run_variables
from flaxres.training.train import train_and_evaluate
from tests.conftest import quick_jit, small_config
from tests.test_main import fails

FIRST_LAYERS = ("conv", "norm", "stage1", "stage2_block1")


def flatten(tree):
    return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def train(steps=3, **fields):
    """Returns the states before and after some steps on the digits, with strong weight decay."""
    config = small_config()
    config.weight_decay = 0.1
    config.update_from_flattened_dict(fields)
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    before = jax.device_get(compiled_steps.initial_state())
    state, arrays = compiled_steps.devices.replicate(before), compiled_steps.put(dataset.train)
    for step in range(steps):
        train_steps = compiled_steps.compile_train_steps(state, arrays, 1)
        state, _ = train_steps(state, arrays, compiled_steps.indices(step, 1))
    return before, jax.device_get(state)


@pytest.mark.parametrize(
    ("path", "frozen", "expected"),
    [
        ("conv", ("conv",), True),
        ("conv1", ("conv",), False),
        ("stage1_block2/norm1", ("stage1",), True),
        ("stage1_block2/norm1", ("stage1_block2",), True),
        ("stage1_block2/conv", ("conv",), False),
        ("stage10_block1", ("stage1",), False),
        ("stage1_conv2", ("stage1",), True),
        ("dense", ("backbone",), False),
        ("hidden1", ("backbone",), True),
        ("dense", ("dense",), True),
        ("", ("backbone", "stage1"), False),
        ("conv", (), False),
    ],
)
def test_names_of_frozen_layers(path, frozen, expected):
    assert is_frozen(path, frozen) is expected


@pytest.mark.parametrize(
    ("frozen", "fields"),
    [
        (FIRST_LAYERS, {}),
        (FIRST_LAYERS, {"weight_decay_on": "kernels", "nesterov": True}),
        # Pooling batch statistics over three devices is not exact, but frozen ones do not change.
        (("backbone",), {"num_devices": 3, "bn_scope": "device", "batch_size": 33}),
        # Only stage 3, which is not frozen, runs as a loop and updates its statistics.
        (FIRST_LAYERS, {"model.depth": 20, "model.scan": True, "model.remat": True}),
    ],
)
def test_only_frozen_layers_keep_their_weights(frozen, fields):
    before, after = train(**{"transfer.frozen": frozen} | fields)
    num_frozen = 0
    for collection in ("params", "batch_stats"):
        old, new = (flatten(getattr(state, collection)) for state in (before, after))
        for name in old:
            is_same = np.array_equal(old[name], new[name])
            assert is_same == is_frozen(name, frozen), name
            num_frozen += is_same
    assert num_frozen > 5
    velocity = flatten(after.opt_state[1].trace)
    assert {name for name, v in velocity.items() if not v.any()} == {
        name for name in velocity if is_frozen(name, frozen)
    }


MODELS = {
    "resnet-20": {"widths": (4, 8, 8), "scan": True, "remat": True},
    "resnet-14-B": {"widths": (4, 8, 8)},
    "preact-14": {"widths": (4, 8, 8)},
    "densenet-bc-16-4": {},
    "vgg-11": {"widths": (4, 4, 8, 8, 8)},
    "stargan-1": {"widths": (4, 8, 8), "norm": "instance-running"},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_computes_the_same_in_training_and_evaluation(name):
    config = set_model(default_config(), name).model
    config.update(MODELS[name])
    size = 32 if config.name == "vgg" else 8
    images = jax.random.normal(jax.random.key(0), (4, size, size, 3))
    unfrozen = create_model(config, 3)
    variables = quick_jit(functools.partial(unfrozen.init, train=True))(jax.random.key(1), images)
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: np.float32(rng.uniform(0.5, 1.5, leaf.shape)), variables["batch_stats"]
    )

    @quick_jit
    def apply_all(variables, images):
        def train(frozen):
            model = create_model(config, 3, frozen=frozen)
            return model.apply(variables, images, train=True, mutable=["batch_stats"])

        last = "unit1" if config.name == "stargan" else "stage3"
        first_layers = [name for name in variables["params"] if not is_frozen(name, [last])]
        evaluated = unfrozen.apply(variables, images, train=False)
        return evaluated, train(("backbone",)), train(first_layers)[1]

    evaluated, (trained, updated), partly_updated = apply_all(variables, images)
    np.testing.assert_allclose(trained, evaluated, rtol=1e-4, atol=1e-5)
    old = flatten(variables["batch_stats"])
    for name, leaf in flatten(updated["batch_stats"]).items():
        np.testing.assert_array_equal(leaf, old[name], err_msg=name)
    last = "unit1" if config.name == "stargan" else "stage3"
    for name, leaf in flatten(partly_updated["batch_stats"]).items():
        assert np.array_equal(leaf, old[name]) != is_frozen(name, [last]), name


def test_a_step_of_the_head_on_a_frozen_backbone_by_hand():
    fields = {"transfer.frozen": ("backbone",), "augment.pad": 0}
    before, after = train(steps=1, **fields)
    config = small_config()
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    rows = compiled_steps.indices(0, 1)[0]
    images = dataset.train.images[rows] / 255 - dataset.mean_image()
    model = create_model(config.model, 10)
    logits = np.asarray(model.apply(before.variables, jnp.float32(images), train=False))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (p - np.eye(10)[dataset.train.labels[rows]]).mean(0)
    old = np.asarray(before.params["dense"]["bias"])
    expected = old - config.learning_rate * (gradient + 0.1 * old)
    np.testing.assert_allclose(after.params["dense"]["bias"], expected, rtol=1e-4, atol=1e-6)


def test_the_learning_rate_of_the_backbone_by_hand():
    before, full = train(steps=1)
    _, scaled = train(steps=1, **{"transfer.backbone_learning_rate_scale": 0.25})
    old, new, actual = (flatten(state.params) for state in (before, full, scaled))
    for name in old:
        factor = 1 if name.startswith("dense/") else 0.25
        expected = old[name] + factor * (np.float64(new[name]) - old[name])
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert scaled.learning_rate == full.learning_rate


def test_a_new_head_is_initialized_and_the_backbone_is_loaded(tmp_path):
    config = small_config()
    dataset = load_dataset(config.dataset)
    shapes = CompiledSteps(config, dataset).state_shape.variables
    rng = np.random.default_rng(0)
    pretrained = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    pretrained["params"]["dense"] = {"kernel": np.ones((8, 3), np.float32), "bias": np.ones(3)}
    path = tmp_path / "net.msgpack"
    write_variables(path, pretrained)
    message = (
        r"net\.msgpack does not fit the model resnet-8: wrong shape or dtype: params/dense/bias is "
        r"float64 \(3,\) instead of float32 \(10,\), params/dense/kernel is .*; to train on other "
        r"classes, initialize a new head with --config\.transfer\.new_head=True$"
    )
    with pytest.raises(WeightsError, match=message):
        load_pretrained_weights(path, shapes, config.model)
    config.seed, config.num_replicas = 5, 2
    initial = jax.device_get(CompiledSteps(config, dataset).initial_state().variables)
    config.init_from, config.transfer.new_head = str(path), True
    state = jax.device_get(CompiledSteps(config, dataset).initial_state().variables)
    for name, leaf in flatten(state).items():
        is_head = name.startswith("params/dense/")
        expected = flatten(initial)[name] if is_head else np.stack([flatten(pretrained)[name]] * 2)
        np.testing.assert_array_equal(leaf, expected, err_msg=name)
    with pytest.raises(
        WeightsError, match=r"transfer\.image_std applies only to PyTorch state dicts, got .*net"
    ):
        load_pretrained_weights(path, shapes, config.model, std=(0.5,))
    # Mismatches outside the head are reported without the hint.
    del pretrained["params"]["conv"]
    write_variables(path, pretrained)
    with pytest.raises(WeightsError, match=r"resnet-8: missing params/conv/kernel$"):
        load_pretrained_weights(path, shapes, config.model, new_head=True)


def test_population_statistics_keep_those_of_frozen_layers():
    config = small_config()
    dataset = load_dataset(config.dataset)
    shapes = CompiledSteps(config, dataset).state_shape.variables
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.5, 1, leaf.shape)), shapes)
    config.transfer.frozen, config.batch_size = FIRST_LAYERS, 500
    new = population_statistics(config, dataset, variables)
    old = variables["batch_stats"]
    is_same = jax.tree.map(np.array_equal, old, new)
    assert is_same == jax.tree.map(bool, frozen_leaves(config, old))


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (
            ("conv", "stage7"),
            r"transfer\.frozen must name layers of the model \(backbone, stage1, stage2, stage3, "
            r"conv, dense, norm, stage1_block1, .*\), got 'stage7'",
        ),
        (("backbone", "dense"), r"must leave at least one layer to train, got backbone, dense"),
    ],
)
def test_invalid_frozen_layers_are_refused(frozen, message):
    config = small_config()
    config.transfer.frozen = frozen
    with pytest.raises(ConfigError, match=message) as caught:
        CompiledSteps(config, load_dataset(config.dataset)).info()
    assert "\n" not in str(caught.value)


def test_fine_tuning_on_other_classes(python, tmp_path):
    config = small_config()
    config.num_steps, config.boundaries = 4, ()
    config.dataset.classes = tuple("01245679")
    train_and_evaluate(config, tmp_path / "eight")
    command = (
        *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8", "--config.boundaries=()"),
        *("--config.num_steps=4", "--config.model.widths=(4,8,8)", "--config.batch_size=16"),
        *("--config.dataset.classes=('3','8')", f"--init_from={tmp_path / 'eight'}"),
    )
    done = python(*command, f"--workdir={tmp_path / 'wrong'}")
    fails(
        done, 1, "wrong shape or dtype: params/dense/bias is float32 (8,) instead of float32 (2,)"
    )
    assert "--config.transfer.new_head=True" in done.stderr
    transfer = ("--config.transfer.new_head=True", "--config.transfer.frozen=('backbone',)")
    done = python(*command, *transfer, f"--workdir={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr

    eight, two = (flatten(read_run_variables(tmp_path / name)) for name in ("eight", "two"))
    for name, leaf in two.items():
        if name.startswith("params/dense/"):
            assert leaf.shape[-1] == 2
        else:
            np.testing.assert_array_equal(leaf, eight[name], err_msg=name)


def test_learning_rate_of_scalars():
    config = small_config()
    config.scalar_learning_rate_scale = 0.1
    params = {
        "block": {"bias1a": {"bias": jnp.ones(1)}, "conv1": {"kernel": jnp.ones((1, 1, 1, 1))}}
    }
    updated = update_params(config, params, params, jnp.float32(0.5))["block"]
    np.testing.assert_allclose(updated["bias1a"]["bias"], [0.95], rtol=1e-6)
    np.testing.assert_allclose(updated["conv1"]["kernel"].item(), 0.5, rtol=1e-6)
