"""Decode workers of a script whose main module has no guard."""

import os
import subprocess
import sys
from multiprocessing import spawn

import numpy as np
import pytest
from PIL import Image

from flaxres.data.main_module import WORKER_NAME, workers_without_main_module
from tests.conftest import ROOT

SCRIPT = """
print("main module runs")
import sys
import flaxres
config = flaxres.get_config(
    "digits:resnet-8", num_steps=2, boundaries=(), batch_size=4, eval_batch_size=4,
    dataset=dict(
        name="folder", data_dir=sys.argv[1], test_split="train", placement="stream", workers=1,
        image_size=8),
    model=dict(widths=(4, 4, 4)),
)
print(flaxres.train(config, sys.argv[2], progress=False).step)
"""


def test_only_workers_leave_the_main_module_out(monkeypatch):
    names = ("init_main_from_name", "init_main_from_path")
    # pytest-xdist has a main module without a file.
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    original = spawn.get_preparation_data
    with workers_without_main_module, workers_without_main_module:
        assert not set(names) & spawn.get_preparation_data(f"{WORKER_NAME}-1").keys()
        assert set(names) & spawn.get_preparation_data("Process-1").keys()
    assert spawn.get_preparation_data is original


@pytest.mark.slow
def test_a_script_without_a_guard_streams(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            image = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "train" / name / f"{number}.png")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path, tmp_path / "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["main module runs", "2"]
