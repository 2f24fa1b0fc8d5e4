"""The notebooks, executed with few steps, and the tool that executes them."""

import ast
import re
from xml.etree import ElementTree

import nbformat
import pytest

from tests.conftest import ROOT
from tools.notebooks import NOTEBOOKS, execute, normalize, set_parameters

pytestmark = pytest.mark.filterwarnings("default")  # of the packages of Jupyter

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@pytest.fixture
def run(tmp_path):
    """Returns a function that executes a notebook and returns its outputs, by the cell's source."""

    def run(name, **parameters):
        notebook = read(name)
        set_parameters(notebook, parameters)
        execute(notebook, tmp_path, seconds=300)
        normalize(notebook)
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        errors = [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
        assert not errors, errors
        return {cell.source: cell.outputs for cell in cells}

    return run


def outputs_of(outputs, text):
    """Returns the outputs of the only cell whose source contains a text."""
    (found,) = [value for source, value in outputs.items() if text in source]
    return found


def table_of(outputs, text):
    """Returns the table that a cell ends with: column -> row -> text."""
    html = outputs_of(outputs, text)[-1].data["text/html"]
    table = ElementTree.fromstring(re.search(r"<table.*</table>", html, re.DOTALL)[0])
    header, *rows = [["".join(cell.itertext()).strip() for cell in row] for row in table.iter("tr")]
    rows = [row for row in rows if any(row[1:])]  # without a row for the name of the index
    return {name: {row[0]: row[i] for row in rows} for i, name in enumerate(header) if i}


def count_figures(outputs):
    return sum("image/png" in o.get("data", {}) for found in outputs.values() for o in found)


@pytest.mark.slow
def test_degradation(run, tmp_path):
    outputs = run("degradation", DEPTHS=(8,), NUM_STEPS=20)
    (progress,) = outputs_of(outputs, "run_sweep")
    assert "2 runs, 2 finished" in progress.data["text/html"]
    by_depth = table_of(outputs, "by_depth")
    assert list(by_depth) == ["plain networks", "residual networks"]
    for errors in by_depth.values():
        assert float(errors["8 layers"]) < 50  # it learns
    params = table_of(outputs, "final_test_error")["params"]
    assert params == {"plain-8": "75002", "resnet-8": "75002"}
    assert count_figures(outputs) == 3
    assert (tmp_path / "runs/degradation_notebook/resnet-8/seed-0/metrics.jsonl").exists()


@pytest.mark.slow
def test_analysis(run):
    outputs = run("analysis", DEPTH=8, NUM_STEPS=30, TRIALS=1)
    errors = table_of(outputs, "model.evaluate()")["test_error"]
    assert list(errors) == ["plain-8", "resnet-8"]
    assert all(float(error) < 50 for error in errors.values())
    assert table_of(outputs, "shapes =")["channels"]["stage3_block1"] == "64"
    pretrained = table_of(outputs, ".errors")["test_error"]
    assert pretrained == {"plain-20": "13.50", "resnet-20": "12.27"}
    assert list(table_of(outputs, "one_dropped")) == ["1"]  # others change the shape
    assert count_figures(outputs) == 7


@pytest.mark.slow
def test_fine_tuning(run, tmp_path):
    outputs = run("fine_tuning", NUM_STEPS=4, TRAIN_IMAGES=10, TEST_IMAGES=10)
    assert len(list(tmp_path.glob("photos/train/*/*.jpg"))) == 100
    records = table_of(outputs, "records")
    assert list(records["test_error"]) == ["random weights", "new head only", "all layers"]
    assert list(table_of(outputs, "columns =")) == ["true", "predicted", "probability"]
    *_, answer = outputs_of(outputs, "again.predict")
    (classes,) = ast.literal_eval(answer.data["text/plain"])
    probabilities = [probability for _, probability in classes]
    assert len(classes) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1.0001


@pytest.mark.parametrize("name", NAMES)
def test_stored_output(name):
    """The stored notebooks are complete, and have nothing of the machine on which they ran."""
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = read(name)
    before = nbformat.writes(notebook)
    normalize(notebook)
    assert nbformat.writes(notebook) == before
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    text = path.read_text()
    for unwanted in (str(ROOT), "Warning", "Traceback", "stderr"):
        assert unwanted not in text
    assert not re.search(r"/(tmp|home|root)/", text)
    assert path.stat().st_size < 1_000_000


def test_parameters_are_replaced():
    notebook = read("degradation")
    set_parameters(notebook, {"NUM_STEPS": 7, "DEPTHS": (8,)})
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, values)
    assert (values["NUM_STEPS"], values["DEPTHS"]) == (7, (8,))
    assert values["WORKDIR"] == "runs/degradation_notebook"
    with pytest.raises(ValueError, match="no parameter NUM_STEP, only DEPTHS"):
        set_parameters(notebook, {"NUM_STEP": 7})
