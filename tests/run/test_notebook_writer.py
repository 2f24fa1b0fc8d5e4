"""Progress in a notebook that nbclient executes in a real Jupyter kernel."""

import nbclient
import nbformat
import pytest

CELL = """
import threading
from flaxres.run.notebook_writer import NotebookWriter, make_progress_writer
with make_progress_writer("resnet-8", 20, quiet=False) as writer:
    assert type(writer) is NotebookWriter
    writer.update(3, {"train_loss": 0.5})
    writer.log("one line")
    writer.write({"step": 20, "train_loss": 0.25, "test_error": 12.5})
with make_progress_writer("quiet", 20, quiet=True) as writer:
    writer.write({"step": 20, "train_loss": 0.25})
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
def test_a_bar_below_the_cell_changes_in_place(monkeypatch):
    from tests.conftest import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    bar, line = notebook.cells[0].outputs
    assert bar.output_type == "display_data"
    assert bar.data["text/plain"] == ("resnet-8  20 of 20 steps  loss 0.2500  test error 12.50%")
    assert 'value="20" max="20"' in bar.data["text/html"]
    assert (line.name, line.text) == ("stderr", "one line\n")


BAR_CELL = """
import time
from flaxres.terminal import make_progress_bar
with make_progress_bar() as bar:
    task = bar.add_task("short", total=4)
    bar.advance(task)
bars = []
for disable in (False, True):
    with make_progress_bar(disable=disable) as bar:
        task = bar.add_task("long <work>", total=4)
        time.sleep(0.6)
        bar.update(task, completed=3, description="nearly <done>")
        bars.append(bar._shown)
print(*bars, sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
def test_a_progress_bar_disappears(monkeypatch):
    from tests.conftest import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BAR_CELL)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    bar, printed = notebook.cells[0].outputs
    assert bar.data == {"text/plain": "", "text/html": ""}
    shown = '<progress value="3" max="4"></progress> nearly &lt;done&gt; 75 %'
    assert printed.text == f"<div>{shown}</div>\n\n"
