"""Results of the paper's schedule, as the documents and the weights state them."""

import csv
import re

import pytest

from flaxres.inference.pretrained import load_pretrained
from flaxres.pretrained.sources import SHIPPED
from tests.conftest import ROOT

RESULTS = ROOT / "results" / "cifar10_jpeg" / "cifar10"
MODELS = sorted(directory.name for directory in RESULTS.iterdir() if directory.is_dir())


def last_record(model):
    with (RESULTS / model / "seed-0" / "metrics.csv").open() as file:
        *_, record = csv.DictReader(file)
    return record


def final_errors(model):
    """Training and test error of the last step, as tables show them."""
    record = last_record(model)
    assert record["step"] == "64000"
    return f"{float(record['train_error']):.2f}", f"{float(record['test_error']):.2f}"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("document", "row"),
    [
        ("README.md", r"\| {model} \| [\d,]+ \| {train} \| {test} \|"),
        ("docs/reproduction.md", r"\| {model} \| {train} \| {test} \|"),
        ("results/README.md", r"\| {model} \| {train} \| {test} \|"),
        ("docs/weights.md", r"\| `{model}-cifar10_jpeg` \|.*\| {test} \| [\d.]+ \| {train} \|"),
    ],
)
def test_documents_have_the_errors_of_the_last_step(document, row, model):
    train, test = map(re.escape, final_errors(model))
    text = (ROOT / document).read_text()
    assert re.search(row.format(model=model, train=train, test=test), text)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_those_of_the_results(name):
    weights = load_pretrained(name)
    record = last_record(name.removesuffix("-cifar10_jpeg"))
    assert weights.step == int(record["step"])
    assert weights.errors["test_error"] == pytest.approx(float(record["test_error"]), 1e-5)
    assert weights.errors["train_error"] == pytest.approx(float(record["train_error"]), 1e-5)
