"""Pretrained weights on the command line: what state dicts do not show, and files of all kinds."""

import json
import os
import shutil

import pytest

from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.input_spec import INPUT_SPEC_FILE
from tests.commands import assert_error, run_command
from tests.conftest import ROOT

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
from flaxres.config import default_config, set_model  # noqa: E402
from tests.models import torch_models  # noqa: E402

FLAGS = (
    *("--config.boundaries=()", "--config.num_steps=1", "--config.batch_size=16"),
    "--config.eval_every=100000",
)
PAD = "--config.transfer.shortcut_padding="
A, B, BOTTLENECK = "resnet-8", "resnet-8-B", "resnet-11-bottleneck-A"


def train(workdir, name, init_from, *flags, mode="train", widths="(4,4,8)"):
    return run_command(
        "flaxres.main",
        *(f"--config={ROOT}/configs/digits.py:{name}", f"--workdir={workdir}", f"--mode={mode}"),
        *(*FLAGS, *flags, *(() if init_from is None else (f"--init_from={init_from}",))),
        f"--config.model.widths={widths}",
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns the directory of state dicts of gray images, one for each model."""
    directory = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in (A, B, BOTTLENECK):
        config = set_model(default_config(), name).model
        config.widths = (4, 4, 8)
        model = torch_models.build(config, 10, 8, "both-sides")
        model.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)
        torch.save({"net": model.state_dict(), "epoch": 3}, directory / f"{name}.pth")
    return directory


@pytest.fixture(scope="module")
def run(files):
    """Returns the directory of a run that began with the state dict of a bottleneck model."""
    outcome = train(files / "run", BOTTLENECK, files / f"{BOTTLENECK}.pth", f"{PAD}both-sides")
    assert outcome.code == 0, outcome
    notes = [line for line in outcome.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2, outcome.stderr
    assert "stride of bottlenecks on the 3x3 convolution, as in torchvision" in notes[0]
    assert "not divided by a standard deviation" in notes[1]
    return files / "run"


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_the_stride_of_bottlenecks_and_the_padding_are_kept(files, run, tmp_path):
    options = (BOTTLENECK, files / f"{BOTTLENECK}.pth", f"{PAD}both-sides")
    assert stored(run)["model"]["stride_on"] == "3x3"
    assert stored(run)["transfer"]["shortcut_padding"] == "both-sides"
    # The config of the command line has 'auto', in every mode.
    outcome = train(run, *options)
    assert (outcome.code, outcome.stderr) == (0, ""), outcome
    outcome = train(run, *options, "--splits=test", mode="eval")
    assert outcome.code == 0, outcome
    assert_error(
        train(run, *options, "--config.model.stride_on=1x1"),
        "model.stride_on is '3x3' in the workdir and '1x1' in this config",
    )
    # A run that began before these fields had a meaning, and without its weights.
    old = shutil.copytree(run, tmp_path / "old")
    config = stored(old)
    config["model"]["stride_on"], config["init_from"] = "1x1", "absent.pth"
    del config["transfer"]["shortcut_padding"]
    (old / "config.json").write_text(json.dumps(config))
    outcome = train(old, BOTTLENECK, "absent.pth")
    assert (outcome.code, outcome.stderr) == (0, ""), outcome


def test_what_a_state_dict_does_not_show_is_asked_for(files, tmp_path):
    a_file, b_file = (files / f"{name}.pth" for name in (A, B))
    (tmp_path / "x.msgpack").touch()
    for name, init_from, flag, code, parts in (
        (A, a_file, "", 2, ("transfer.shortcut_padding must be both-sides", "end (all of them")),
        (A, a_file, f"{PAD}left", 2, ("must be one of both-sides, end", "'left'")),
        (A, None, f"{PAD}end", 2, ("None without pretrained weights",)),
        (B, b_file, f"{PAD}end", 2, ("without zero-padded shortcuts",)),
        (A, tmp_path / "x.msgpack", f"{PAD}end", 1, ("only to PyTorch state dicts", "x.msgpack")),
        ("resnet-8-exclusive-gate", a_file, f"{PAD}end", 2, ("PyTorch names", "unknown")),
        ("preact-8", a_file, f"{PAD}end", 2, ("PyTorch names of preact", "unknown")),
        (B, b_file, "--config.model.norm=group", 2, ("model.norm must be batch",)),
    ):
        flags = (flag,) if flag else ()
        assert_error(train(tmp_path / "run", name, init_from, *flags), *parts, code=code)
        assert not (tmp_path / "run").exists()
    outcome = train(tmp_path / "run", A, a_file, f"{PAD}both-sides", widths="(4,5,8)")
    assert_error(outcome, "odd number of channels", code=2)


def test_files_that_are_no_weights(files, tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "directory.pth").mkdir()
    (tmp_path / "empty.msgpack").touch()
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "nested.msgpack").write_bytes(b"\x81\xa6params" + b"\x81\xa1a" * 900 + b"\xc0")
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "absent")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    (tmp_path / "\x1b[31m\n.pth").write_text("weights")
    missing = "missing layer2.0.downsample.1.running_mean (for stage2_block1/shortcut/norm/mean)"
    # PyTorch takes a second to import, so `tests.pretrained.test_torch_file` reads the other files.
    # A model without a data set shows that the file is checked first.
    no_data = "--config.dataset.name=folder"
    for init_from, flags, parts in (
        (
            "absent.pth",
            (no_data,),
            ("--init_from=absent.pth does not exist; give a run",),
        ),
        ("absent/run", (no_data,), ("--init_from=absent/run does not exist",)),
        (tmp_path / "text.pth" / "x", (no_data,), ("does not exist; give",)),
        (tmp_path / "dangling.pth", (no_data,), ("does not exist; give",)),
        (tmp_path / "loop.pth", (no_data,), ("cannot be read",)),
        ("x" * 300, (no_data,), ("cannot be read (File name too long)",)),
        ("~nosuchuser/x.pth", (no_data,), ("~nosuchuser is no known home directory",)),
        (tmp_path / "fifo.pth", (no_data,), ("special file",)),
        ("/dev/zero", (no_data,), ("special file",)),
        (tmp_path / "directory.pth", (no_data,), ("holds no run: there is no config.json",)),
        (tmp_path / "empty.msgpack", (), ("is damaged",)),
        (tmp_path / "nested.msgpack", (), ("missing batch_stats/norm/mean", "a/a/a...")),
        (tmp_path / "\x1b[31m\n.pth", (), ("must hold only tensors",)),
        (files / f"{A}.pth", (), (f"{A}.pth does not fit the model resnet-8-B: {missing}",)),
        (files / f"{B}.pth", ("--config.dataset.classes=('1','2')",), ("new_head=True",)),
    ):
        outcome = train(tmp_path / "run", B, init_from, *flags)
        assert_error(outcome, *parts)
        assert "\x1b" not in outcome.stderr
        assert len(outcome.stderr) < 2000
        assert not (tmp_path / "run").exists(), init_from


def test_runs_whose_data_set_is_gone(run, tmp_path):
    source = shutil.copytree(run, tmp_path / "source")
    assert checkpoint_steps(source) == [1]
    config = stored(source)
    config["dataset"] |= {"name": "folder", "data_dir": str(tmp_path / "gone")}
    (source / "config.json").write_text(json.dumps(config))
    stride = "--config.model.stride_on=3x3"
    outcome = train(tmp_path / "new", BOTTLENECK, source, stride)
    assert outcome.code == 0, outcome
    (source / INPUT_SPEC_FILE).unlink()
    outcome = train(tmp_path / "other", BOTTLENECK, source, stride)
    assert_error(outcome, "source has no inputs.npz, and its data set cannot be read")
    shutil.rmtree(source / "checkpoints")
    outcome = train(tmp_path / "other", BOTTLENECK, source, stride)
    assert_error(outcome, "holds no checkpoint yet; train it first")
    (source / "config.json").write_text("[]")
    assert_error(train(tmp_path / "other", BOTTLENECK, source, stride), "config.json")
