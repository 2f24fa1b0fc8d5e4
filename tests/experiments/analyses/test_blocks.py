"""Models with dropped and swapped blocks, compared with models built that way."""

import csv
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from flaxres.config import set_model
from flaxres.configs import digits
from flaxres.errors import ConfigError
from flaxres.experiments.analyses import blocks, surgery
from flaxres.experiments.analyses.base import Evaluation
from flaxres.experiments.analyses.blocks import Options, analyze_runs, make_modifications
from flaxres.experiments.analyses.model_sources import RunSource, load_run
from flaxres.models import create_model
from flaxres.models.blocks import Block
from flaxres.run.records import read_metrics
from flaxres.run.workdir import open_workdir
from flaxres.training.train import train_and_evaluate
from tests.conftest import init, quick_jit, small_config

MODELS = {
    "plain": {"name": "plain", "shortcut": "none", "depth": 14},
    "resnet": {"name": "resnet", "shortcut": "B", "depth": 14},
    "preact": {"name": "preact", "shortcut": "A", "depth": 20},
    "resnext": {
        "name": "resnext",
        "shortcut": "B",
        "depth": 20,
        "block": "bottleneck",
        "groups": 2,
    },
}
RESNET_20 = MODELS["resnet"] | {"depth": 20}


def make_fields(**changes):
    """Returns the fields of a small model."""
    config = small_config()
    config.model.update({"widths": (4, 8, 8), **changes})
    return config.model


def droppable_names(**changes):
    """Returns the names of the blocks that can be dropped from a small model."""
    return list(itertools.chain(*surgery.droppable_blocks(make_fields(**changes))))


def random_model(**changes):
    """Returns a model, variables without zeros and ones, and images."""
    model = create_model(make_fields(**changes), 10)
    rng = np.random.default_rng(0)
    images = rng.random((5, 8, 8, 1), np.float32)
    variables = init(model, images)
    # The norms are close to the identity, so that the logits of deep plain models differ.
    random = jax.tree.map(lambda x: x + 0.2 * rng.random(x.shape, np.float32), variables)
    return model, random, images


def rename_blocks(variables, names):
    """Returns the variables with renamed blocks, and without the blocks that have no new name."""
    return {
        collection: {
            names.get(name, name): leaves
            for name, leaves in values.items()
            if "block" not in name or name in names
        }
        for collection, values in variables.items()
    }


# `stages` are the numbers of blocks of the smaller model.
@pytest.mark.parametrize(
    ("family", "dropped", "stages"),
    [
        ("plain", {"stage1_block1", "stage2_block2"}, (1, 1, 2)),
        ("resnet", {"stage1_block1", "stage3_block2"}, (1, 2, 1)),
        ("preact", {"stage1_block2", "stage2_block3"}, (2, 2, 3)),
        ("resnext", {"stage1_block2", "stage3_block2"}, (1, 2, 1)),
    ],
)
def test_a_model_with_dropped_blocks_is_the_smaller_model(family, dropped, stages):
    model, variables, images = random_model(**MODELS[family])
    names = droppable_names(**MODELS[family])
    keep = np.array([name not in dropped for name in names])
    logits = quick_jit(surgery.make_masked_apply(model, names))(variables, images, keep)

    all_names = itertools.chain(*surgery.block_names(make_fields(**MODELS[family])))
    new_names, counts = {}, [0, 0, 0, 0]
    for name in all_names:
        if name not in dropped:
            stage = int(name[5])
            counts[stage] += 1
            new_names[name] = f"stage{stage}_block{counts[stage]}"
    assert tuple(counts[1:]) == stages
    smaller = model.clone(stages=stages)
    expected = quick_jit(lambda v, x: smaller.apply(v, x, train=False))(
        rename_blocks(variables, new_names), images
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("name", ["plain", "resnet", "preact"])
def test_blocks_that_keep_the_shape_can_be_dropped(name, block, stem):
    depth = {"cifar": {"basic": 20, "bottleneck": 29}, "imagenet": {"basic": 18, "bottleneck": 50}}
    config = small_config()
    config.model.update({"stem": stem, "block": block, "depth": depth[stem][block], "name": name})
    config.model.shortcut = "none" if name == "plain" else "B"
    config.model.widths = (4, 8, 8) if stem == "cifar" else (4, 8, 8, 16)
    same_shape = []

    def record_block(call, arguments, options, context):
        y = call(*arguments, **options)
        block = context.module
        is_block = isinstance(block, Block) and context.method_name == "__call__"
        if is_block and y.shape == arguments[0].shape:
            same_shape.append(block.name)
        return y

    with nn.intercept_methods(record_block):
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        model = create_model(config.model, 10)
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    # The shortcut of a pre-activation model's first block starts after its first norm and ReLU.
    expected = [block for block in same_shape if name != "preact" or block != "stage1_block1"]
    assert list(itertools.chain(*surgery.droppable_blocks(config.model))) == expected


@pytest.mark.parametrize("model", ["densenet-40-12", "vgg-13", "lenet-5", "stargan-6", "preact-8"])
def test_models_without_droppable_blocks(tmp_path, model):
    config = set_model(digits.get_config(), model)
    with open_workdir(tmp_path / model / "seed-0", config, {}):
        pass
    message = rf"{model}/seed-0: .*(blocks can be dropped from|no block can be dropped)"
    with pytest.raises(ConfigError, match=message):
        analyze_runs([RunSource(tmp_path / model / "seed-0")], tmp_path, Options())
    assert not (tmp_path / "blocks.csv").exists()


def test_dropping_and_swapping_an_identity_block_changes_nothing():
    model, variables, images = random_model(**RESNET_20)
    last_norm = variables["params"]["stage2_block2"]["norm2"]
    last_norm |= {name: jnp.zeros_like(leaf) for name, leaf in last_norm.items()}
    names = droppable_names(**RESNET_20)
    apply = quick_jit(surgery.make_masked_apply(model, names))
    keep = np.ones(len(names), bool)
    logits = apply(variables, images, keep)
    swapped = surgery.swap_blocks(variables, "stage2_block2", "stage2_block3")
    np.testing.assert_allclose(apply(swapped, images, keep), logits, rtol=1e-6)
    without_identity = keep & (np.array(names) != "stage2_block2")
    np.testing.assert_allclose(apply(variables, images, without_identity), logits, rtol=1e-6)
    # Another block changes the logits, and can be dropped even if its output is not finite.
    without_other = keep & (np.array(names) != "stage3_block2")
    other_logits = apply(variables, images, without_other)
    assert abs(other_logits - logits).max() > 1e-3
    variables["params"]["stage3_block2"]["conv1"]["kernel"] *= np.nan
    np.testing.assert_array_equal(apply(variables, images, without_other), other_logits)
    assert apply._cache_size() == 1  # one compiled program


def test_swapping_blocks_swaps_their_variables():
    _, variables, _ = random_model(**MODELS["resnet"])
    first, second = "stage1_block1", "stage1_block2"
    swapped = surgery.swap_blocks(variables, first, second)
    for collection, values in variables.items():
        expected = {**values, first: values[second], second: values[first]}
        assert swapped[collection].keys() == expected.keys()
        assert all(swapped[collection][name] is leaves for name, leaves in expected.items())
    restored = surgery.swap_blocks(swapped, second, first)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_random_choices_are_a_function_of_the_seed():
    model = make_fields(**MODELS["resnet"] | {"depth": 32})
    few = make_modifications(model, Options(trials=2))
    many = make_modifications(model, Options(trials=3))
    assert few == make_modifications(model, Options(trials=2))
    assert set(few) < set(many)
    assert few != make_modifications(model, Options(trials=2, seed=1))
    names = set(itertools.chain(*surgery.droppable_blocks(model)))
    for m in many:
        assert set(m.dropped) <= names
        assert len(set(m.dropped)) == {"position": 1, "dropped": m.number, "swaps": 0}[m.kind]
        assert len(m.swapped) == (m.number if m.kind == "swaps" else 0)
        assert all(first[:6] == second[:6] and first != second for first, second in m.swapped)
        assert all(a != b for a, b in itertools.pairwise(m.swapped))
    positions = [m.number for m in many if m.kind == "position"]
    assert positions == [1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15]


def test_a_model_with_few_blocks_has_few_modifications():
    modifications = make_modifications(make_fields(**MODELS["resnet"]), Options(trials=1))
    dropped = [("dropped", number) for number in range(5)]
    swaps = [("swaps", 0), ("swaps", 1)]  # stage 1 has the only pair
    positions = [("position", number) for number in (1, 2, 4, 6)]
    assert [(m.kind, m.number) for m in modifications] == positions + dropped + swaps
    modifications = make_modifications(make_fields(depth=8), Options())
    assert "swaps" not in {m.kind for m in modifications}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directory of a trained run with 14 layers."""
    directory = tmp_path_factory.mktemp("sweep") / "resnet-14" / "seed-0"
    config = small_config()
    config.model.depth = 14
    train_and_evaluate(config, directory)
    return directory


def test_analysis_of_a_run(tmp_path, run):
    files = analyze_runs([RunSource(run)], tmp_path, Options(trials=2))
    assert [file.name for file in files] == ["blocks.csv", "blocks.png", "blocks.svg"]
    lines = files[0].read_text().splitlines()
    rows = {(row["kind"], int(row["number"])): row for row in csv.DictReader(lines)}
    assert len(rows) == 4 + 5 + 2
    test_error = read_metrics(run)[-1]["test_error"]
    for kind in ("dropped", "swaps"):
        assert float(rows[kind, 0]["error"]) == pytest.approx(test_error, rel=1e-5)
        assert float(rows[kind, 0]["error_std"]) == 0
    assert {row["trials"] for row in rows.values()} == {"1", "2"}
    # The only possible swap, by hand.
    trained = load_run(run)
    first, second = "stage1_block1", "stage1_block2"
    for values in trained.variables.values():
        values[first], values[second] = values[second], values[first]
    error = Evaluation(trained, trained.dataset.test)(trained.variables)["error"]
    assert float(rows["swaps", 1]["error"]) == pytest.approx(error, rel=1e-5)


def test_mean_and_standard_deviation_of_trials():
    modifications = [blocks.Modification("dropped", number) for number in (1, 2, 2)]
    assert blocks.summarize(modifications, [4.0, 10.0, 20.0]) == [
        {"kind": "dropped", "number": 1, "trials": 1, "error": 4.0, "error_std": 0.0},
        {
            "kind": "dropped",
            "number": 2,
            "trials": 2,
            "error": 15.0,
            "error_std": pytest.approx(np.sqrt(50)),
        },
    ]


def test_flags(tmp_path, monkeypatch, parse):
    monkeypatch.setattr(blocks, "analyze_runs", lambda sources, output, options: options)
    parse(blocks, "--trials=3", "--images=0")
    assert blocks.analyze([], tmp_path) == Options(trials=3, seed=0, images=0)
    for wrong in ("--trials=0", "--seed=-1", "--images=all"):
        with pytest.raises(flags.IllegalFlagValueError):
            parse(blocks, wrong)
