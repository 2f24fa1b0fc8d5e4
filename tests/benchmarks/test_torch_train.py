"""The recipe in PyTorch: initialization, data, and runs that resume."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.commands import run_command
from tests.conftest import ROOT

torch = pytest.importorskip("torch", reason="pip install torch")
SMALL = (
    *("--config=configs/digits.py:resnet-8", "--config.boundaries=(20,30)"),
    *("--config.log_every=5", "--config.eval_every=10", "--config.checkpoint_every=10"),
)


def train(workdir, num_steps):
    command = (sys.executable, "-m", "benchmarks.torch_train", *SMALL)
    run_flags = (f"--config.num_steps={num_steps}", f"--workdir={workdir}")
    return subprocess.run(
        (*command, *run_flags), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines
    ]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_metrics(tmp_path):
    whole = train(tmp_path / "whole", 40)
    assert whole.returncode == 0, whole.stderr
    expected = records(tmp_path / "whole")
    assert [record["step"] for record in expected] == list(range(5, 45, 5))
    assert [record["learning_rate"] for record in expected[3:5]] == [0.1, pytest.approx(0.01)]
    assert expected[-1]["train_loss"] < expected[0]["train_loss"]
    assert "test_error" in expected[1]

    command = (sys.executable, "-m", "benchmarks.torch_train", *SMALL, "--config.num_steps=40")
    killed = subprocess.Popen(
        (*command, f"--workdir={tmp_path / 'killed'}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in killed.stderr:
        if "step 25/" in line:
            killed.kill()
            break
    killed.wait()
    killed.stderr.close()
    saved_step = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"]
    info = tmp_path / "killed" / "info.json"
    info.write_text(info.read_text().replace('"device": "', '"device": "other '))
    assert train(tmp_path / "killed", 40).returncode == 0
    assert records(tmp_path / "killed") == expected
    (earlier,) = json.loads(info.read_text())["earlier"]
    assert (earlier["device"][:6], earlier["until_step"]) == ("other ", saved_step)


def test_initialization_of_he_2015(isolated_flags):
    from benchmarks.torch_train import Run
    from flaxres.configs import digits
    from flaxres.data import load_dataset

    config = digits.get_config("plain-56")
    run = Run(config, load_dataset(config.dataset), torch.device("cpu"))
    weights = dict(run.model.named_parameters())
    for name in ("blocks.stage2_block3.conv1.weight", "blocks.stage3_block9.conv2.weight"):
        fan_in = weights[name][0].numel()
        assert float(weights[name].detach().std()) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
    assert not weights["dense.bias"].any()


def test_unsupported_shortcut(tmp_path):
    flags = ("--config.model.shortcut=B", "--config.num_steps=40", f"--workdir={tmp_path / 'b'}")
    result = run_command("benchmarks.torch_train", *SMALL, *flags)
    assert result.code == 2
    assert result.stderr.strip().endswith(
        "supports only shortcut option A, batch norm and no warm-up"
    )


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("schedule", "cosine", "'piecewise-constant'"),
        ("label_smoothing", 0.1, "0"),
        ("nesterov", True, "False"),
    ],
)
def test_unsupported_fields(isolated_flags, field, value, supported):
    from benchmarks.torch_train import Run
    from flaxres.configs import digits
    from flaxres.data import load_dataset
    from flaxres.errors import ConfigError

    config = digits.get_config("plain-8")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=f"supports only {field} {supported}, got {value!r}"):
        Run(config, load_dataset(config.dataset), torch.device("cpu"))
