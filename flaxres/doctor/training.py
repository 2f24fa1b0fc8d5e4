"""The doctor's findings about JAX, the kernels and training, from `flaxres.doctor.probe`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxres.doctor.findings import NOTE, PROBLEM, Finding, gib
from flaxres.extras import install_command

STAGES = ("import", "devices", "kernels", "training")
# Seconds for which a stage may run. The kernels are compiled once, within five minutes.
SECONDS = {"import": 60.0, "devices": 60.0, "kernels": 330.0, "training": 180.0}
COMMAND = (sys.executable, "-m", "flaxres.doctor.probe")
MAX_ERROR_LENGTH = 300

Results = dict[str, dict[str, Any]]  # by stage


def run_probe(
    device_seconds: float = SECONDS["devices"],
    command: Sequence[str] = COMMAND,
    progress: Callable[[str], None] = lambda stage: None,
) -> Results:
    """Runs the probe and returns the result of each stage.

    A stage that takes too long is stopped, with all processes that it has started; its result has
    the field 'error', and the later stages are missing.

    Args:
      device_seconds: time limit of starting JAX's devices; a driver may wait forever.
      command: command line of the probe.
      progress: called with the name of each stage when it begins.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    messages: list[str] = []
    threads = [
        threading.Thread(target=_read, args=(process.stdout, lines.put, "")),
        threading.Thread(target=_read, args=(process.stderr, messages.append)),
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()
    results: Results = {}
    try:
        for stage in STAGES:
            progress(stage)
            results[stage] = _next_result(stage, lines, device_seconds, messages, threads[1])
            if "error" in results[stage]:
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in threads:
            thread.join(timeout=1.0)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return results


def _read(pipe: Any, add: Callable[[str], Any], end: str | None = None) -> None:
    for line in pipe:
        add(line)
    if end is not None:
        add(end)


def _next_result(
    stage: str,
    lines: queue.SimpleQueue[str],
    device_seconds: float,
    messages: list[str],
    message_reader: threading.Thread,
) -> dict[str, Any]:
    seconds = device_seconds if stage == "devices" else SECONDS[stage]
    try:
        line = lines.get(timeout=seconds)
    except queue.Empty:
        return {"error": f"stopped after {seconds:g} s without an answer", "timed_out": True}
    try:
        result = json.loads(line)
    except ValueError:
        message_reader.join(timeout=1.0)  # on a busy machine, it may be behind
        text = [m.strip() for m in messages if m.strip()]
        reason = f": {text[-1][:MAX_ERROR_LENGTH]}" if text else ""
        return {"error": f"the process ended{reason}"}
    return result if isinstance(result, dict) else {"error": "no answer"}


def check_settings(results: Results) -> list[Finding]:
    """Returns the settings of the training process, and the memory."""
    result = results.get("import", {})
    if "error" in result or not result:
        return []
    findings = []
    if result["expects_cpu"]:
        for key, name in (("has_xla_flags", "XLA flags"), ("has_tunables", "malloc tunables")):
            status = "ok" if result[key] else NOTE
            findings.append(Finding(f"{name} for CPUs", "on" if result[key] else "off", status))
    else:
        findings.append(Finding("settings for CPUs", "off, because an accelerator is expected"))
    memory, limit, available = (
        result[key] for key in ("memory", "memory_limit", "available_memory")
    )
    if memory:
        value = gib(memory) + (f", {gib(available)} available" if available else "")
        findings.append(Finding("memory", value))
    findings.append(Finding("memory limit (cgroup)", gib(limit) if limit else "none"))
    return findings


def check_data(results: Results) -> list[Finding]:
    """Returns the data sets that were found."""
    result = results.get("import", {})
    if "error" in result or not result:
        return []
    findings = [Finding("digits", f"{result['digits']:,} training images (scikit-learn)")]
    place = result["data_dir"]
    if result["prepared"]:
        findings.append(Finding("TFDS data sets", f"{', '.join(result['prepared'])} in {place}"))
    else:
        install = "" if result["tensorflow"] else f"{install_command('prepare')}, then "
        advice = (
            f"{install}flaxres prepare --name=cifar10; for sets in another place, "
            "--config.dataset.data_dir=DIR or TFDS_DATA_DIR=DIR"
        )
        findings.append(Finding("TFDS data sets", f"none in {place}", NOTE, advice))
    decoder = results.get("kernels", {}).get("compiled_decoder")
    if decoder is not None:
        value = "compiled" if decoder else "Pillow only, which takes twice as long"
        findings.append(Finding("decoder of JPEG files", value, "ok" if decoder else NOTE))
    return findings


def check_training(results: Results) -> list[Finding]:
    """Returns the findings about JAX, its devices, the kernels and training."""
    findings = []
    for stage, describe, advice in (
        ("import", _describe_import, "install the missing package, see Software"),
        ("devices", _describe_devices, "JAX_PLATFORMS=cpu uses the CPU; check the driver"),
        ("kernels", _describe_kernels, "FLAXRES_CPU_KERNELS=0 trains without them"),
        ("training", _describe_training, "rerun with `flaxres train --config=digits:resnet-8`"),
    ):
        result = results.get(stage)
        if result is None:
            continue
        name = {"import": "JAX", "devices": "devices", "kernels": "CPU kernels"}.get(stage, stage)
        if "error" in result:
            findings.append(Finding(name, result["error"], PROBLEM, advice))
        else:
            findings.append(describe(name, result))
    return findings


def _describe_import(name: str, result: Mapping[str, Any]) -> Finding:
    return Finding(name, f"imported in {result['seconds']:.1f} s")


def _describe_devices(name: str, result: Mapping[str, Any]) -> Finding:
    memory = f", {result['memory']} each" if result["memory"] else ""
    value = f"{result['count']} x {result['kind']} (platform {result['platform']}){memory}"
    return Finding(name, f"{value}, found in {result['seconds']:.1f} s")


def _describe_kernels(name: str, result: Mapping[str, Any]) -> Finding:
    if "skipped" in result:
        return Finding(name, f"not used: {result['skipped']}")
    if "problem" in result:
        return Finding(name, result["problem"], PROBLEM, "training works, 3 times slower")
    value = f"built, loaded and compared with NumPy, {result['lanes']} float32 values in a vector"
    return Finding(name, f"{value} ({result['seconds']:.1f} s)")


def _describe_training(name: str, result: Mapping[str, Any]) -> Finding:
    value = f"ResNet-8 on the digits, {result['steps']} steps in {result['seconds']:.1f} s"
    return Finding(name, f"{value}, with an evaluation and a checkpoint")
