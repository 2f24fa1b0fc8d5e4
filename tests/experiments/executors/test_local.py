import os
import signal
import sys
import time

import pytest

from flaxres.cpu.processor import available_cores
from flaxres.errors import ConfigError
from flaxres.experiments.executors import local
from flaxres.experiments.executors.base import Task
from flaxres.experiments.executors.local import LocalExecutor, cpu_slots, device_slots
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


def visible(slots, variable="CUDA_VISIBLE_DEVICES"):
    """Returns the devices and memory fractions of slots."""
    assert all(set(slot.environment) <= {variable, "XLA_CLIENT_MEM_FRACTION"} for slot in slots)
    return [
        (slot.environment[variable], slot.environment.get("XLA_CLIENT_MEM_FRACTION"))
        for slot in slots
    ]


def test_runs_share_gpus():
    slots = device_slots("gpu", [0, 1], {}, runs_per_gpu=3)
    # All GPUs get a run before one gets a second.
    assert visible(slots) == [(gpu, "0.25") for gpu in ("0", "1") * 3]
    assert [slot.name for slot in slots[1:3]] == ["gpu 1 (run 1 of 3)", "gpu 0 (run 2 of 3)"]
    chosen = {"CUDA_VISIBLE_DEVICES": "3,GPU-ab"}
    slots = device_slots("gpu", [0, 1], chosen, runs_per_gpu=2)
    assert visible(slots) == [(gpu, "0.375") for gpu in ("3", "GPU-ab") * 2]
    slots = device_slots("rocm", [0], {}, runs_per_gpu=2)
    assert visible(slots, "HIP_VISIBLE_DEVICES") == [("0", "0.375")] * 2
    slots = device_slots("gpu", [0], {"ROCR_VISIBLE_DEVICES": "5"}, runs_per_gpu=2)
    assert visible(slots, "ROCR_VISIBLE_DEVICES") == [("5", "0.375")] * 2


@pytest.mark.parametrize("variable", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_a_memory_fraction_of_the_user(variable):
    slots = device_slots("gpu", [0], {variable: "0.1"}, runs_per_gpu=4)
    assert visible(slots) == [("0", None)] * 4


def test_processes_on_shared_gpus(monkeypatch, tmp_path):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(local, "list_devices", lambda: ("gpu", [0, 1]))
    with pytest.raises(ConfigError, match=r"workers must be from 1 to 4 .*gpu 1 \(run 2 of 2\)"):
        LocalExecutor(workers=5, runs_per_gpu=2)
    # What jaxlib passes to the CUDA plugin.
    code = "import os; from jaxlib import xla_client as client; print(os.environ["
    code += "'CUDA_VISIBLE_DEVICES'], client.generate_pjrt_gpu_plugin_options()['memory_fraction'])"
    tasks = [task(tmp_path, f"t{i}", code) for i in range(3)]
    with LocalExecutor(workers=3, runs_per_gpu=2) as executor:
        assert executor.capacity == 3
        jobs = executor.submit(tasks)
        assert [wait(job).code for job in jobs] == [0, 0, 0]
        outputs = [(tmp_path / f"t{i}.log").read_text().splitlines()[-1] for i in range(3)]
        assert outputs == ["0 0.375", "1 0.375", "0 0.375"]


def test_the_first_free_slot_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(local, "list_devices", lambda: ("tpu", [0, 1, 2]))
    code = "import os; print('chip', os.environ['TPU_VISIBLE_CHIPS'], flush=True)"
    tasks = [task(tmp_path, f"t{i}", code) for i in range(3)]
    with LocalExecutor() as executor:
        jobs = executor.submit(tasks)
        for job in reversed(jobs):  # releases the slots in this order
            assert wait(job).code == 0
        (job,) = executor.submit(tasks[2:])
        assert wait(job).code == 0
    assert (tmp_path / "t2.log").read_text().splitlines()[1::2] == ["chip 2", "chip 0"]


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        ("cpu", "--workers and --cpus_per_run divide a CPU"),
        ("tpu", "a TPU chip serves one process at a time"),
        ("metal", "only NVIDIA and AMD GPUs can be shared"),
    ],
)
def test_runs_cannot_share_other_devices(monkeypatch, platform, reason):
    monkeypatch.setattr(local, "runs_on_cpu", lambda: platform == "cpu")
    monkeypatch.setattr(local, "list_devices", lambda: (platform, [0]))
    with pytest.raises(ConfigError, match=f"machine without GPUs, got 2; {reason}"):
        LocalExecutor(runs_per_gpu=2)


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


def test_logs_have_no_colors_where_a_kernel_of_jupyter_forces_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    code = "from rich.console import Console; Console().print('[bold]text')"
    started = task(tmp_path, "colors", code)
    assert started.start().wait(60) == 0
    assert started.log.read_text().splitlines()[1:] == ["text"]
