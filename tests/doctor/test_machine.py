"""Findings about the machine: a cache that others can write, a broken compiler, a full disk."""

import shutil

import pytest

from flaxres.doctor import machine
from flaxres.doctor.findings import NOTE, OK, PROBLEM


def test_cache(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("FLAXRES_CACHE", str(cache))
    assert machine.check_cache()[0].value.endswith("does not exist yet; the first run creates it")
    cache.mkdir(mode=0o700)
    (cache / "file").write_bytes(bytes(3 * 2**20))
    assert machine.check_cache()[0].value.endswith("trusted, 1 file, 3 MiB")
    monkeypatch.setattr(machine, "untrusted_reason", lambda path: f"others can write to {path}")
    (finding,) = machine.check_cache()
    assert (finding.status, f"others can write to {cache}" in finding.value) == (PROBLEM, True)
    assert "FLAXRES_CACHE" in finding.advice


@pytest.mark.parametrize(
    ("compiler", "status"), [("false", PROBLEM), ("'", PROBLEM), ("/nowhere", PROBLEM), ("", NOTE)]
)
def test_compiler(compiler, status, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    compilers = [f for f in machine.check_processor() if f.name == "C++ compiler"]
    assert [finding.status for finding in compilers] == [status]
    assert compilers[0].advice


def test_disk(monkeypatch):
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 2**80)
    assert {finding.status for finding in machine.check_disk()} == {PROBLEM}
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 1)
    assert {finding.status for finding in machine.check_disk()} == {OK}


def test_an_accelerator_without_a_plugin(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    monkeypatch.setattr(machine, "plugin_names", lambda: {"xla_rocm7"})
    (finding,) = machine.find_unused_accelerators(tmp_path)
    assert (finding.name, finding.status) == ("NVIDIA GPU", PROBLEM)
    assert "jax[cuda13]" in finding.advice
    monkeypatch.setattr(machine, "plugin_names", lambda: {"xla_cuda13"})
    assert machine.find_unused_accelerators(tmp_path) == []


def test_environment_shows_no_secrets(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("FLAXRES_CACHE", "/home/someone/cache")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    values = {finding.name: finding.value for finding in machine.check_environment()}
    assert values["FLAXRES_CACHE"] == "~/cache"
    assert "secret" not in str(values)
