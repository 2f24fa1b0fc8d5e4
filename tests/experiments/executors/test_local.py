import os
import signal
import sys
import time

import pytest

from experiments.executors import local
from experiments.executors.base import Task
from experiments.executors.local import LocalExecutor, cpu_slots, device_slots
from flaxres.cpu.processor import available_cores
from flaxres.errors import ConfigError
from tests.conftest import ROOT

CORES = available_cores()


def task(tmp_path, name, code):
    return Task(name, (sys.executable, "-c", code), ROOT, tmp_path / f"{name}.log")


def wait(job, seconds=60):
    """Returns how a job ended."""
    deadline = time.monotonic() + seconds
    while (exit_status := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return exit_status


def test_a_worker_is_bound_to_its_cores(tmp_path):
    code = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['JAX_PLATFORMS'])"
    with LocalExecutor() as executor:
        assert executor.capacity == len(CORES)
        tasks = [task(tmp_path, f"t{i}", f"import time; time.sleep(.3); {code}") for i in range(2)]
        jobs = executor.submit(tasks[: executor.capacity])
        assert [wait(job).code for job in jobs] == [0] * len(jobs)
        for i, _ in enumerate(jobs):
            command, output = (tmp_path / f"t{i}.log").read_text().splitlines()
            assert command.startswith("# ")
            assert output == f"[{CORES[i]}] cpu"
        # The slots are free again.
        assert wait(executor.submit(tasks[:1])[0]).code == 0


def test_exit_codes_of_jobs(tmp_path):
    with LocalExecutor(workers=1) as executor:
        (failing,) = executor.submit([task(tmp_path, "failing", "raise SystemExit(7)")])
        assert wait(failing).code == 7
        sleep = "import time; print('up', flush=True); time.sleep(60)"
        for method, code in (("stop", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
            (job,) = executor.submit([task(tmp_path, method, sleep)])
            while "up" not in (tmp_path / f"{method}.log").read_text():
                time.sleep(0.02)
            assert job.poll() is None
            getattr(job, method)()
            assert wait(job).code == code
            job.stop()  # has no effect on a job that has ended


def test_cores_are_divided_into_groups():
    slots = cpu_slots([0, 1, 2, 4, 5], 2)
    assert [slot.cores for slot in slots] == [{0, 1}, {2, 4}]
    with pytest.raises(ConfigError, match=r"cpus_per_run must be from 1 to 5.*got 6"):
        cpu_slots([0, 1, 2, 4, 5], 6)


def test_each_accelerator_is_a_slot():
    gpus = device_slots("gpu", [0, 1], {})
    assert [slot.environment for slot in gpus] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    # JAX numbers the devices that the variable makes visible from 0.
    chosen = device_slots("gpu", [0, 1], {"CUDA_VISIBLE_DEVICES": "3,GPU-ab"})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in chosen] == ["3", "GPU-ab"]
    tpus = device_slots("tpu", [0, 1, 2, 3], {})
    assert [slot.environment["TPU_VISIBLE_CHIPS"] for slot in tpus] == ["0", "1", "2", "3"]
    assert all(slot.environment["TPU_PROCESS_BOUNDS"] == "1,1,1" for slot in tpus)


@pytest.mark.parametrize("workers", [0, len(CORES) + 1])
def test_wrong_number_of_workers(workers):
    with pytest.raises(ConfigError, match=rf"workers must be from 1 to {len(CORES)} \(devices of"):
        LocalExecutor(workers=workers)


def test_plugins_without_an_accelerator_leave_the_cpu(monkeypatch):
    monkeypatch.setattr(local, "runs_on_cpu", lambda: False)
    with LocalExecutor() as executor:
        assert [slot.name for slot in executor.slots] == [f"cpu {core}" for core in CORES]


def test_no_device_found(monkeypatch):
    monkeypatch.setattr(local, "runs_on_cpu", lambda: False)
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "cuda")
    with pytest.raises(local.UserError, match="JAX finds no device on this machine: "):
        LocalExecutor()


def test_devices_that_do_not_answer(monkeypatch):
    monkeypatch.setattr(local, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(local, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(local, "PROBE_TIMEOUT", 0.1)
    with pytest.raises(local.UserError, match=r"JAX does not list its devices within 0\.1 s"):
        LocalExecutor()
    monkeypatch.setattr(local, "PROBE", "pass")
    monkeypatch.setattr(local, "PROBE_TIMEOUT", 60)
    with pytest.raises(local.UserError, match="JAX finds no device on this machine: no message"):
        LocalExecutor()
