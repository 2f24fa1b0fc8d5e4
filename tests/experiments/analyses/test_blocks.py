"""Nets without blocks, and with blocks exchanged, against nets that were made so."""

import csv
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from configs import digits
from experiments.analyses import blocks, surgery
from experiments.analyses.base import Evaluation, load
from experiments.analyses.blocks import Options, cuts, study
from flaxres.config import set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.blocks import Block
from flaxres.run.metric_writers import read_metrics
from flaxres.run.workdir import open_workdir
from flaxres.training.train import train_and_evaluate
from tests.conftest import init, quick_jit, small_config

NETS = {
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
DEEPER = NETS["resnet"] | {"depth": 20}


def fields(**changes):
    """The fields of a small net."""
    config = small_config()
    config.model.update({"widths": (4, 8, 8), **changes})
    return config.model


def random_net(**changes):
    """A net, variables without zeros and ones, and images that it has seen nothing of."""
    model = create_model(fields(**changes), 10)
    rng = np.random.default_rng(0)
    images = rng.random((5, 8, 8, 1), np.float32)
    variables = init(model, images)
    # Norms that nearly are the identity, so that the logits of deep plain nets differ.
    random = jax.tree.map(lambda x: x + 0.2 * rng.random(x.shape, np.float32), variables)
    return model, random, images


def renamed(variables, names):
    """The variables with only those blocks, and their new names; all else stays."""
    return {
        collection: {
            names.get(name, name): own
            for name, own in values.items()
            if "block" not in name or name in names
        }
        for collection, values in variables.items()
    }


# The blocks dropped, and the stages of the net that remains.
@pytest.mark.parametrize(
    ("net", "dropped", "stages"),
    [
        ("plain", {"stage1_block1", "stage2_block2"}, (1, 1, 2)),
        ("resnet", {"stage1_block1", "stage3_block2"}, (1, 2, 1)),
        ("preact", {"stage1_block2", "stage2_block3"}, (2, 2, 3)),
        ("resnext", {"stage1_block2", "stage3_block2"}, (1, 2, 1)),
    ],
)
def test_a_net_without_blocks_is_the_smaller_net(net, dropped, stages):
    model, variables, images = random_net(**NETS[net])
    names = list(itertools.chain(*surgery.droppable(fields(**NETS[net]))))
    keep = np.array([name not in dropped for name in names])
    ours = quick_jit(surgery.apply_kept(model, names))(variables, images, keep)

    left = [name for stage in surgery.blocks(fields(**NETS[net])) for name in stage]
    left = [name for name in left if name not in dropped]
    new, counts = {}, [0, 0, 0, 0]
    for name in left:
        stage = int(name[5])
        counts[stage] += 1
        new[name] = f"stage{stage}_block{counts[stage]}"
    assert tuple(counts[1:]) == stages
    smaller = model.clone(stages=stages)
    theirs = quick_jit(lambda v, x: smaller.apply(v, x, train=False))(
        renamed(variables, new), images
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("name", ["plain", "resnet", "preact"])
def test_blocks_that_keep_the_shape_can_be_dropped(name, block, stem):
    depth = {"cifar": {"basic": 20, "bottleneck": 29}, "imagenet": {"basic": 18, "bottleneck": 50}}
    config = small_config()
    config.model.update({"stem": stem, "block": block, "depth": depth[stem][block], "name": name})
    config.model.shortcut = "none" if name == "plain" else "B"
    config.model.widths = (4, 8, 8) if stem == "cifar" else (4, 8, 8, 16)
    kept = []

    def watch(call, arguments, options, context):
        y = call(*arguments, **options)
        block = context.module
        is_block = isinstance(block, Block) and context.method_name == "__call__"
        if is_block and y.shape == arguments[0].shape:
            kept.append(block.name)
        return y

    with nn.intercept_methods(watch):
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        model = create_model(config.model, 10)
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    # The shortcut of a pre-activation net's first block leaves after its first norm and ReLU.
    expected = [own for own in kept if name != "preact" or own != "stage1_block1"]
    assert list(itertools.chain(*surgery.droppable(config.model))) == expected


@pytest.mark.parametrize("net", ["densenet-40-12", "vgg-13", "lenet-5", "stargan-6", "preact-8"])
def test_nets_without_blocks_that_can_be_dropped(tmp_path, net):
    config = set_model(digits.get_config(), net)
    with open_workdir(tmp_path / net / "seed-0", config, {}):
        pass
    with pytest.raises(ConfigError, match=rf"{net}/seed-0: .*(blocks can be|none can be) dropped"):
        study([tmp_path / net / "seed-0"], tmp_path, Options())
    assert not (tmp_path / "blocks.csv").exists()


def test_a_block_that_is_the_identity_can_be_dropped_and_exchanged():
    model, variables, images = random_net(**DEEPER)
    identity = variables["params"]["stage2_block2"]["norm2"]
    identity |= {name: jnp.zeros_like(leaf) for name, leaf in identity.items()}
    names = list(itertools.chain(*surgery.droppable(fields(**DEEPER))))
    apply = quick_jit(surgery.apply_kept(model, names))
    keep = np.ones(len(names), bool)
    logits = apply(variables, images, keep)
    moved = surgery.exchange(variables, "stage2_block2", "stage2_block3")
    np.testing.assert_allclose(apply(moved, images, keep), logits, rtol=1e-6)
    without = keep & (np.array(names) != "stage2_block2")
    np.testing.assert_allclose(apply(variables, images, without), logits, rtol=1e-6)
    # Another one is not, and it may be dropped even if it is not finite.
    other = keep & (np.array(names) != "stage3_block2")
    shorter = apply(variables, images, other)
    assert abs(shorter - logits).max() > 1e-3
    variables["params"]["stage3_block2"]["conv1"]["kernel"] *= np.nan
    np.testing.assert_array_equal(apply(variables, images, other), shorter)
    assert apply._cache_size() == 1  # one program for all


def test_exchanging_blocks_exchanges_their_variables():
    _, variables, _ = random_net(**NETS["resnet"])
    one, other = "stage1_block1", "stage1_block2"
    exchanged = surgery.exchange(variables, one, other)
    for collection, values in variables.items():
        expected = {**values, one: values[other], other: values[one]}
        assert exchanged[collection].keys() == expected.keys()
        assert all(exchanged[collection][name] is own for name, own in expected.items())
    again = surgery.exchange(exchanged, other, one)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_choices_are_a_function_of_the_seed():
    model = fields(**NETS["resnet"] | {"depth": 32})
    few, many = cuts(model, Options(trials=2)), cuts(model, Options(trials=3))
    assert few == cuts(model, Options(trials=2))
    assert set(few) < set(many)
    assert few != cuts(model, Options(trials=2, seed=1))
    names = set(itertools.chain(*surgery.droppable(model)))
    for cut in many:
        assert set(cut.dropped) <= names
        assert len(set(cut.dropped)) == {"position": 1, "dropped": cut.number, "swaps": 0}[cut.kind]
        assert len(cut.exchanged) == (cut.number if cut.kind == "swaps" else 0)
        assert all(one[:6] == other[:6] and one != other for one, other in cut.exchanged)
        assert all(a != b for a, b in itertools.pairwise(cut.exchanged))
    positions = [cut.number for cut in many if cut.kind == "position"]
    assert positions == [1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15]


def test_few_blocks_leave_few_choices():
    numbers = [(c.kind, c.number) for c in cuts(fields(**NETS["resnet"]), Options(trials=1))]
    dropped = [("dropped", number) for number in range(5)]
    swaps = [("swaps", 0), ("swaps", 1)]  # there is but one pair, in stage 1
    assert numbers == [("position", n) for n in (1, 2, 4, 6)] + dropped + swaps
    assert "swaps" not in {c.kind for c in cuts(fields(depth=8), Options())}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a trained net of 14 layers."""
    directory = tmp_path_factory.mktemp("sweep") / "resnet-14" / "seed-0"
    config = small_config()
    config.model.depth = 14
    train_and_evaluate(config, directory)
    return directory


def test_the_study_of_a_run(tmp_path, run):
    files = study([run], tmp_path, Options(trials=2))
    assert [file.name for file in files] == ["blocks.csv", "blocks.png", "blocks.svg"]
    lines = files[0].read_text().splitlines()
    rows = {(row["kind"], int(row["number"])): row for row in csv.DictReader(lines)}
    assert len(rows) == 4 + 5 + 2
    last = read_metrics(run)[-1]["test_error"]
    for kind in ("dropped", "swaps"):
        assert float(rows[kind, 0]["error"]) == pytest.approx(last, rel=1e-5)
        assert float(rows[kind, 0]["error_std"]) == 0
    assert {row["trials"] for row in rows.values()} == {"1", "2"}
    # Exchanged by hand.
    trained = load(run)
    one, other = "stage1_block1", "stage1_block2"
    for values in trained.variables.values():
        values[one], values[other] = values[other], values[one]
    error = Evaluation(trained, trained.dataset.test)(trained.variables)["error"]
    assert float(rows["swaps", 1]["error"]) == pytest.approx(error, rel=1e-5)


def test_mean_and_deviation_of_trials():
    chosen = [blocks.Cut("dropped", 1), blocks.Cut("dropped", 2), blocks.Cut("dropped", 2)]
    assert blocks.summarize(chosen, [4.0, 10.0, 20.0]) == [
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
    monkeypatch.setattr(blocks, "study", lambda directories, output, options: options)
    parse(blocks, "--trials=3", "--images=0")
    assert blocks.analyze([], tmp_path) == Options(trials=3, seed=0, images=0)
    for wrong in ("--trials=0", "--seed=-1", "--images=all"):
        with pytest.raises(flags.IllegalFlagValueError):
            parse(blocks, wrong)
