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
