"""Results of the paper's schedule, as the documents and the weights state them."""

import csv
import itertools
import re
import statistics

import pytest

from flaxres.inference.pretrained import load_pretrained
from flaxres.pretrained.sources import SHIPPED
from tests.conftest import ROOT

RESULTS = ROOT / "results" / "cifar10_jpeg" / "cifar10"
PYTORCH = RESULTS / "pytorch"
MODELS = sorted(path.name for path in RESULTS.iterdir() if path.is_dir() and path != PYTORCH)
DROPS = (0, 32_000, 48_000, 64_000)  # of the learning rate


def last_record(model, directory=RESULTS):
    with (directory / model / "seed-0" / "metrics.csv").open() as file:
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


def mean_test_errors(directory):
    """Means of the test errors of ResNet-20 in each phase of the learning rate, as in a table."""
    with (directory / "resnet-20" / "seed-0" / "metrics.csv").open() as file:
        errors = {
            int(r["step"]): float(r["test_error"]) for r in csv.DictReader(file) if r["test_error"]
        }
    return [
        f"{statistics.mean(e for step, e in errors.items() if first < step <= last):.2f}"
        for first, last in itertools.pairwise(DROPS)
    ]


def test_claims_compare_with_pytorch():
    rows = [*zip(mean_test_errors(PYTORCH), mean_test_errors(RESULTS), strict=True)]
    final = [float(last_record("resnet-20", d)["test_error"]) for d in (PYTORCH, RESULTS)]
    rows.append(tuple(f"{error:.2f}" for error in final))
    section = (ROOT / "docs/claims.md").read_text().partition("## The errors of table 6")[2]
    table = section.partition("| PyTorch, % | flaxres, % |")[2].partition("\n\n")[0]
    assert re.findall(r"\| ([\d.]+) \| ([\d.]+) \|", table) == rows


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_those_of_the_results(name):
    weights = load_pretrained(name)
    record = last_record(name.removesuffix("-cifar10_jpeg"))
    assert weights.step == int(record["step"])
    assert weights.errors["test_error"] == pytest.approx(float(record["test_error"]), 1e-5)
    assert weights.errors["train_error"] == pytest.approx(float(record["train_error"]), 1e-5)
