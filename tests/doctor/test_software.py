"""Versions against ranges, and optional packages."""

import importlib.metadata

import pytest
from packaging.requirements import Requirement

from flaxres.doctor import software
from flaxres.doctor.findings import NOTE, OK, PROBLEM

NUMPY = importlib.metadata.version("numpy")


@pytest.mark.parametrize(
    ("requirement", "status", "value"),
    [
        (f"numpy=={NUMPY}", OK, f"{NUMPY} (flaxres needs =={NUMPY})"),
        ("numpy", OK, NUMPY),
        ("numpy<1", PROBLEM, f"{NUMPY}, flaxres needs <1"),
        ("no-such-package>=1", PROBLEM, "not installed"),
    ],
)
def test_requirements(requirement, status, value):
    finding = software.check_requirement(Requirement(requirement))
    assert (finding.status, finding.value) == (status, value)
    if status == PROBLEM:
        assert finding.advice == f"pip install '{requirement}'"


def test_the_packages_of_this_environment_are_in_range():
    findings = {finding.name: finding for finding in software.check_software()}
    assert set(software.LISTED) < set(findings)
    assert {finding.status for finding in findings.values()} == {OK}


def test_requirements_of_an_installed_copy(monkeypatch, tmp_path):
    metadata = ["jax<0.12,>=0.10", 'ray<3; extra == "cluster"', 'x>1; sys_platform == "none"']
    monkeypatch.setattr(software, "REPOSITORY", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: metadata)
    assert [str(r) for r in software.read_requirements()] == ["jax<0.12,>=0.10"]
    assert list(software.read_extras()) == ["cluster"]
    assert software.install_command("cluster", tmp_path) == "pip install 'flaxres[cluster]'"


def test_extras(monkeypatch, tmp_path):
    (tmp_path / "requirements-cluster.txt").write_text("# Ray\nno-such-package>=1  # x\n-r y\n")
    (tmp_path / "requirements-dev.txt").write_text("numpy\n")
    monkeypatch.setattr(software, "REPOSITORY", tmp_path)
    cluster, dev = software.check_extras()
    assert (cluster.status, dev.status) == (NOTE, OK)
    assert cluster.value == "sweeps on a Ray cluster; missing: no-such-package"
    assert cluster.advice == "pip install -r requirements-cluster.txt"


def test_every_extra_has_a_purpose():
    assert set(software.read_extras()) <= set(software.PURPOSES)
