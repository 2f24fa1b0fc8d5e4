"""Command that checks the installation, the devices and the data.

flaxres doctor
flaxres doctor --json

Prints versions, devices, the C++ compiler and the CPU kernels, the cache, the data sets, disk space
and optional packages, and for everything that is missing one line of what to do. It trains for two
steps in a process with a time limit. The exit code is 0 if training works, otherwise 1.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from absl import flags

from flaxres import plain_commands
from flaxres.doctor import machine, software, training
from flaxres.doctor.findings import PROBLEM, Finding, print_findings
from flaxres.errors import counted
from flaxres.subcommands import exit_with_error

MAX_SECONDS = 86_400.0
LABELS = {
    "import": "importing JAX",
    "devices": "starting the devices",
    "kernels": "checking the CPU kernels (compiled once, in about half a minute)",
    "training": "training for two steps",
}


def main() -> None:
    """Runs all checks and prints their findings."""
    as_json = flags.DEFINE_bool("json", False, "Print JSON instead of text.")
    timeout = flags.DEFINE_float(
        "timeout", training.SECONDS["devices"], "Seconds after which starting the devices fails."
    )
    if words := plain_commands.parse_words(__doc__ or ""):
        exit_with_error(f"unexpected arguments: {' '.join(words)}; flags are --NAME=VALUE")
    if not 0 < timeout.value < MAX_SECONDS:
        exit_with_error(f"--timeout must be a number of seconds above 0, got {timeout.value:g}")
    sections, works = examine(timeout.value)
    if as_json.value:
        findings = {
            title: [dataclasses.asdict(finding) for finding in section]
            for title, section in sections.items()
        }
        print(json.dumps({"training_works": works, "findings": findings}, indent=2))
    else:
        print_findings(sections)
        problems = sum(f.status == PROBLEM for section in sections.values() for f in section)
        others = f"{counted(problems, 'problem')} above" if problems else "no problems"
        print(f"\nTraining {'works' if works else 'does not work'}; {others}.")
    sys.exit(0 if works else 1)


def examine(device_seconds: float) -> tuple[dict[str, list[Finding]], bool]:
    """Runs all checks.

    Args:
      device_seconds: time limit of starting the devices.

    Returns:
      The findings by section, and True if training works.
    """
    results = training.run_probe(device_seconds, progress=_show)
    _show("")
    sections = {
        "Software": software.check_software(),
        "Machine": machine.check_processor(),
        "Environment": machine.check_environment(),
        "Settings and memory": training.check_settings(results),
        "JAX and training": training.check_training(results),
        "Cache and disk": machine.check_cache() + machine.check_disk(),
        "Data": training.check_data(results),
        "Optional packages": software.check_extras(),
    }
    works = "error" not in results.get("training", {"error": "not reached"})
    return {title: findings for title, findings in sections.items() if findings}, works


def _show(stage: str) -> None:
    """Shows on a terminal which stage of the probe is running."""
    if sys.stderr.isatty():
        text = f"{LABELS[stage]} ..." if stage else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    plain_commands.run(main)
