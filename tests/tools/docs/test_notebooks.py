"""Pages of notebooks."""

import base64

import pytest

from tools.docs.notebooks import notebook_pages

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbconvert")


def test_a_notebook_becomes_a_page_with_its_output(tmp_path):
    new = nbformat.v4
    image = {"image/png": base64.b64encode(b"PNG").decode(), "text/plain": "<Figure>"}
    table = {"text/html": "<div>\n<style scoped>\n th {}\n</style>\n<table></table></div>"}
    outputs = [
        new.new_output("stream", text="\x1b[1mstep\x1b[0m 1\n"),
        new.new_output("display_data", image),
        new.new_output("execute_result", table),
    ]
    link = "[results](../../results/README.md)"
    cells = [
        new.new_markdown_cell(f"# A title\n\nSee {link}."),
        new.new_code_cell("plot(1)", outputs=outputs),
    ]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "a.ipynb")
    files = notebook_pages(tmp_path)
    text = files["a.md"].decode()
    assert text.startswith("# A title\n\n*This page is the notebook `docs/notebooks/a.ipynb`")
    assert "[results](../results.md)" in text
    assert "```python\nplot(1)\n```" in text
    assert "    step 1\n" in text
    assert "style" not in text
    (path,) = set(files) - {"a.md"}
    assert files[path] == b"PNG"
    assert f"({path})" in text
