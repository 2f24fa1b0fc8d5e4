"""The probe of the doctor: time limits, failures, and a real one."""

import json
import sys
import time

import pytest

from flaxres.doctor import training
from flaxres.doctor.findings import NOTE, OK, PROBLEM
from tests.commands import run_command
from tests.processes import has_ended

IMPORT = {
    "stage": "import",
    "seconds": 1.0,
    "expects_cpu": True,
    "has_xla_flags": True,
    "has_tunables": False,
    "memory": 2**34,
    "memory_limit": None,
    "available_memory": 2**33,
    "data_dir": "~/data",
    "prepared": [],
    "digits": 1437,
    "tensorflow": False,
}


def _probe(code, **options):
    return training.run_probe(command=(sys.executable, "-c", code), **options)


def test_devices_that_hang(tmp_path):
    pid = tmp_path / "pid"
    code = (
        f"import subprocess; print({json.dumps(json.dumps(IMPORT))}, flush=True); "
        f"child = subprocess.Popen(['sleep', '100']); open({str(pid)!r}, 'w').write(str(child.pid))"
        "; child.wait()"
    )
    stages = []
    start = time.monotonic()
    results = _probe(code, device_seconds=1.0, progress=stages.append)
    assert time.monotonic() - start < 20
    assert stages == ["import", "devices"]
    assert results["devices"]["error"] == "stopped after 1 s without an answer"
    finding = training.check_training(results)[-1]
    assert (finding.name, finding.status) == ("devices", PROBLEM)
    assert "JAX_PLATFORMS=cpu" in finding.advice
    assert has_ended(pid.read_text())


def test_a_probe_that_crashes():
    results = _probe("import sys; print('libtpu.so: no such file', file=sys.stderr); sys.exit(1)")
    assert results == {"import": {"error": "the process ended: libtpu.so: no such file"}}
    assert training.check_settings(results) == training.check_data(results) == []


def test_findings():
    results = {
        "import": IMPORT,
        "devices": {"count": 1, "kind": "cpu", "platform": "cpu", "memory": None, "seconds": 0.1},
        "kernels": {"problem": "they cannot be built", "compiled_decoder": False},
        "training": {"error": "no space left on device"},
    }
    statuses = {finding.name: finding.status for finding in training.check_training(results)}
    assert statuses == {"JAX": OK, "devices": OK, "CPU kernels": PROBLEM, "training": PROBLEM}
    settings = {finding.name: finding for finding in training.check_settings(results)}
    assert settings["malloc tunables for CPUs"].status == NOTE
    assert settings["memory"].value == "16.0 GiB, 8.0 GiB available"
    data = {finding.name: finding for finding in training.check_data(results)}
    assert "requirements-prepare.txt, then flaxres prepare" in data["TFDS data sets"].advice
    assert data["decoder of JPEG files"].status == NOTE


@pytest.mark.slow
def test_a_real_doctor():
    outcome = run_command("flaxres.doctor", "--json", timeout=300)
    report = json.loads(outcome.stdout)
    assert (outcome.code, report["training_works"]) == (0, True), outcome
    problems = [
        finding
        for findings in report["findings"].values()
        for finding in findings
        if finding["status"] == PROBLEM
    ]
    assert problems == []


def test_without_a_device():
    outcome = run_command("flaxres.doctor", env={"JAX_PLATFORMS": "cuda"})
    assert outcome.code == 1
    assert "JAX finds no device for JAX_PLATFORMS=cuda" in " ".join(outcome.stdout.split())
    assert outcome.stdout.splitlines()[-1].startswith("Training does not work")
    assert max(map(len, outcome.stdout.splitlines())) <= 80
