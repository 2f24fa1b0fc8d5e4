"""The example's loop trains as `flaxres.train` does."""

import re
import runpy

import numpy as np
import pytest

import flaxres
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_own_loop_trains_as_flaxres_does(tmp_path, capsys):
    example = runpy.run_path(str(ROOT / "examples/own_loop.py"))
    error = example["main"]("plain-8", num_steps=10)
    printed = re.findall(r"loss ([\d.]+), training error", capsys.readouterr().out)
    config = flaxres.get_config("digits:plain-8", num_steps=10, boundaries=(), log_every=1)
    config.num_devices = 1
    result = flaxres.train(config, tmp_path / "run", progress=False)
    losses = result.metrics["train_loss"]
    np.testing.assert_allclose([float(loss) for loss in printed], losses[[9]], atol=2e-3)
    np.testing.assert_allclose(error, result.record["test_error"], atol=0.3)
