"""Environments of a run that resumes elsewhere, as info.json keeps them."""

import json
from pathlib import Path

from flaxres.run.environments import describe_devices, describe_earlier, with_earlier
from flaxres.run.workdir import open_workdir
from flaxres.training.train import train_and_evaluate

GPU = {"params": 9, "device": "H100", "devices": 1, "jax": "0.11.2", "commit": "a" * 40}
CPU = {"params": 9, "device": "EPYC", "devices": 2, "jax": "0.10.2", "commit": "a" * 40}


def test_environments_are_kept_with_their_last_steps():
    info = with_earlier(GPU, {}, 0)
    assert info == GPU
    assert with_earlier(GPU, info, 500) == GPU  # the same environment
    info = with_earlier(CPU, info, 700)
    gpu = {name: value for name, value in GPU.items() if name != "params"}
    assert info == CPU | {"earlier": [{"until_step": 700, **gpu}]}
    assert with_earlier(CPU, info, 900) == info
    newer = CPU | {"commit": "b" * 40}
    info = with_earlier(newer, info, 900)
    assert [entry["until_step"] for entry in info["earlier"]] == [700, 900]
    assert {name: info[name] for name in CPU} == newer
    assert describe_devices(info) == "H100 then EPYC"
    assert describe_earlier(info) == (
        f"to step 700: H100, devices 1, jax 0.11.2, commit {'a' * 40}; "
        f"to step 900: EPYC, devices 2, jax 0.10.2, commit {'a' * 40}"
    )
    assert (describe_devices(GPU), describe_earlier(GPU)) == ("H100", None)


def test_environments_that_saved_nothing_are_left_out():
    info = with_earlier(CPU, with_earlier(GPU, {}, 0), 700)
    assert with_earlier(GPU, info, 700) == GPU  # nothing was saved on the CPU
    newer = CPU | {"commit": "b" * 40}
    assert [entry["device"] for entry in with_earlier(newer, info, 700)["earlier"]] == ["H100"]
    # Checkpoints after step 600 are lost: the GPU trained these steps, and the CPU none of them.
    [entry] = with_earlier(newer, info, 600)["earlier"]
    assert (entry["until_step"], entry["device"]) == (600, "H100")
    assert with_earlier(CPU, info, 0) == CPU  # trains from the start


def test_a_resumed_run_keeps_its_former_environment(tmp_path, config):
    def start(info):
        with open_workdir(tmp_path, config, info):
            return json.loads(Path(tmp_path, "info.json").read_text())

    start(GPU)
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    info = start(CPU)
    assert (info["device"], describe_earlier(info)[:17]) == ("EPYC", "to step 20: H100,")
    info["earlier"] = [{"device": "H100"}]  # without its step
    (tmp_path / "info.json").write_text(json.dumps(info))
    assert "earlier" not in start(CPU)


def test_replicas_keep_their_former_environment(config, tmp_path):
    config.num_replicas, config.num_steps, config.model.widths = 2, 4, (4, 4, 4)
    train_and_evaluate(config, tmp_path)
    files = [tmp_path / "info.json", *(tmp_path / f"seed-{seed}" / "info.json" for seed in (0, 1))]
    for file in files:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "H100"}))
    config.num_steps = 6
    train_and_evaluate(config, tmp_path)
    for file in files:
        (earlier,) = json.loads(file.read_text())["earlier"]
        assert (earlier["device"], earlier["until_step"]) == ("H100", 4), file
    config.boundaries = (10, 16)  # changes no step that is done
    train_and_evaluate(config, tmp_path)
    assert all("earlier" in json.loads(file.read_text()) for file in files)
