"""Other generated pages, and the site as a whole."""

import importlib.util
import re
import subprocess
import sys

import pytest

from flaxres import errors
from tests.conftest import ROOT
from tools.docs.api_pages import api_pages
from tools.docs.errors_page import errors_page
from tools.docs.text import inline, sentence, table


def test_text():
    assert sentence("dtype of 'x'") == "Dtype of 'x'."
    assert sentence("num_steps of a run") == "num_steps of a run."
    assert inline("see --a=b.") == 'see <code class="whole">--a=b</code>.'
    assert inline("'jit' or `pmap` <b>") == "<code>jit</code> or <code>pmap</code> &lt;b&gt;"
    link = '<a href="https://arxiv.org/abs/1706.02677">arXiv 1706.02677</a>'
    assert inline("Goyal 2017, arXiv 1706.02677") == f"Goyal 2017, {link}"
    assert (
        table(("a", "b"), [("x|y", "1")], numbers=[1]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    )


def test_every_error_has_its_exit_code():
    page = errors_page()
    for error in (errors.ConfigError, errors.DivergedError, errors.InUseError):
        row = next(line for line in page.splitlines() if f"<code>{error.__name__}</code>" in line)
        assert f"| {error.exit_code} |" in row
    assert "130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP)" in page


def test_api_pages_name_modules_that_exist():
    pages = api_pages()
    names = re.findall(r"^::: (flaxres\S*)", "\n".join(pages.values()), re.MULTILINE)
    assert {"flaxres.config", "flaxres.models.resnet", "flaxres.data.sampler"} <= set(names)
    for name in names:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.parent.with_suffix(".py").exists(), name
    assert not any(name.split(".")[-1].startswith("_") for name in names)


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_without_a_network(tmp_path):
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("Zensical is not installed (requirements-docs.txt)")
    command = [sys.executable, "-m", "tools.docs", f"--output={tmp_path / 'site'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(https?:[^\" >]*)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?(https?:[^\" >]*)", text)
        assert not loaded, page
        assert "class=mermaid" not in text, "Mermaid would be loaded from a network"
