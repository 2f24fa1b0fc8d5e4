"""The config, model and sweep files of the how-to guides work."""

import re

import pytest

from tests.conftest import ROOT


def snippets(page):
    text = (ROOT / "docs/howto" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_a_config_file_can_add_a_model(python, tmp_path):
    (tmp_path / "my_model.py").write_text(snippets("own_model.md")[0])
    flags = [f"--config={tmp_path}/my_model.py", f"--workdir={tmp_path}/run"]
    short = ["--config.num_steps=2", "--config.boundaries=1", "--config.eval_every=2"]
    done = python("-m", "flaxres.main", *flags, *short)
    assert done.returncode == 0, done.stderr
    assert "after 2 steps" in done.stdout
    done = python("-m", "flaxres.main", "--mode=summary", flags[0], "--config.model.depth=5")
    assert done.returncode == 2
    assert "allconv-5: depth must be the number of widths + 1, got 5" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_configs_of_the_guide(python, tmp_path, number):
    (tmp_path / "my_digits.py").write_text(snippets("own_config.md")[number])
    config = f"--config={tmp_path}/my_digits.py:resnet-8"
    done = python("-m", "flaxres.main", config, "--mode=summary")
    assert done.returncode == 0, done.stderr
    assert "75,002 params" in done.stdout
