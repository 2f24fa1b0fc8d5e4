"""Listings: every name in them exists, and they need no JAX."""

import json
import re
import subprocess
import sys

import pytest

from flaxres import catalog
from flaxres.config import default_config, set_model
from flaxres.model_forms import MODEL_FORMS, SHORTCUTS, model_names
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.models.nearest import exists
from flaxres.models.registry import FAMILIES, STEMS
from flaxres.models.shortcuts import SHORTCUTS as ALL_SHORTCUTS
from tests.conftest import ROOT


def _depths(rule, limit):
    """Returns the depths below `limit` that a rule of `ModelForm` describes."""
    if re.match(r"\d+,\d", rule):  # single depths, maybe before a formula
        first, _, rest = rule.partition(",")
        return {int(first)} | _depths(rest, limit)
    if match := re.fullmatch(r"(\d*)n\+?(\d*)(?:, (<|>=)(\d+))?", rule):
        period, offset = int(match[1] or 1), int(match[2] or 0)
        depths = {period * n + offset for n in range(1, limit)}
        if match[3]:
            depths = {d for d in depths if (d < int(match[4])) == (match[3] == "<")}
        return {d for d in depths if d < limit}
    return {int(rule)} if rule else set()


@pytest.mark.parametrize("stem", STEMS)
def test_depths_of_the_models(stem):
    by_name = {}
    for form in MODEL_FORMS:
        rule = form.small if stem == "cifar" else form.imagenet
        if form.name in ("repvgg-a0", "convnext-tiny"):  # their variants are no depths
            assert exists(form.name, stem) == bool(rule)
            continue
        by_name.setdefault(form.name, set()).update(_depths(rule, 300))
    for name, depths in by_name.items():
        if name == "lenet-5":
            assert exists(name, stem)
            continue
        filled = name.replace("-CxWd", "-8x64d").replace("-S", "-C").replace("-K", "-12")
        for depth in range(1, 300):
            model = filled.replace("-D", f"-{depth}", 1)
            if stem == "imagenet" and name in ("densenet-D-K", "densenet-bc-D-K"):
                continue  # listed as densenet-D
            if stem == "imagenet" and name == "resnet-D-bottleneck":
                continue  # the default there
            assert exists(model, stem) == (depth in depths), model


DEEP = (
    *("resnet-164-bottleneck", "preact-110", "preact-164", "densenet-bc-100-12", "densenet-121"),
    *("resnetd-50", "resnetrs-50", "skipinit-110", "skipinit-164", "rezero-110", "fixup-110"),
    *("dirac-56", "repvgg-56", "repvgg-a0", "convnext-tiny", "sepreact-110", "sepreact-164"),
    *("seresnext-29-8x64d", "resnetaa-56", "resnetblur-56", "convnext-31"),
)


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_examples_and_their_numbers_of_parameters(deep):
    for form in (form for form in MODEL_FORMS if (form.example in DEEP) == deep):
        stem = "cifar" if form.small else "imagenet"
        size, classes = (32, 10) if form.small else (224, 1000)
        model = create_model(set_model(default_config(), form.example, stem).model, classes)
        params = sum(layer.params for layer in summarize(model, (size, size, 3)))
        assert params == form.params, form.example


def test_every_family_is_listed():
    starts = {form.start for family in FAMILIES.values() for form in family.name_forms}
    listed = {form.name.partition("-")[0] for form in MODEL_FORMS}
    assert set(FAMILIES) <= listed <= starts
    assert {"none", *SHORTCUTS} == set(ALL_SHORTCUTS)
    assert all(exists(name, "cifar") or exists(name, "imagenet") for name in model_names())


def test_own_files_precede_shipped_ones(tmp_path, monkeypatch):
    (tmp_path / "configs/sweeps").mkdir(parents=True)
    (tmp_path / "configs/digits.py").write_text('"""My\ndigits.\n\nMore."""\nraise ValueError\n')
    (tmp_path / "configs/broken.py").write_text("def (")
    (tmp_path / "configs/sweeps/mine.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    configs = {entry.name: entry for entry in catalog.list_files("configs")}
    assert configs["digits"] == catalog.Entry("digits", "My digits.", is_own=True)
    assert configs["broken"] == catalog.Entry("broken", "", is_own=True)
    assert configs["cifar10"].description.startswith("CIFAR-10 as in He15")
    assert catalog.list_files("configs/sweeps")[0] == catalog.Entry("mine", "", is_own=True)


def test_the_command_needs_no_jax_and_fits_a_terminal():
    code = (
        "import sys; sys.argv[1:] = ['--json']; from flaxres import catalog; catalog.main();"
        "assert not {'jax', 'ml_collections', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lists = json.loads(done.stdout)
    assert list(lists) == list(catalog.LISTS)
    assert {"digits", "imagenet"} <= {entry["name"] for entry in lists["configs"]}
    assert {"responses", "landscape"} <= {entry["name"] for entry in lists["analyses"]}


def test_tables_of_models_fit_80_columns(capsys):
    catalog.print_list("models")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "resnet-D-S" in lines[4]
