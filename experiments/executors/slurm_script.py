"""Batch script of an array of SLURM jobs, and the record of its tasks.

SLURM keeps the script in its own files from the moment of submission, so nobody can change the
commands that it runs. The record in the workdir holds only digests of the tasks: it is data.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import flaxres
from flaxres.experiments.executors.base import Task
from flaxres.files import open_regular, write_atomically

ROOT = Path(flaxres.__file__).parent.parent  # directory in which Python finds flaxres
RECORD = re.compile(r"(\d+)_tasks\.json")


class TaskRecord(msgspec.Struct):
    """The tasks of an array of jobs.

    Attributes:
      tasks: digest of each task, in the order of the array.
    """

    tasks: list[str]


def make_script(tasks: Sequence[Task], folder: Path) -> bytes:
    """Returns a shell script that runs the task with the index of the array job.

    Args:
      tasks: tasks of the array.
      folder: folder for the logs and exit codes of the jobs.
    """
    lines = [
        "#!/bin/sh",
        f"log={_quote(folder)}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_0_log",
        'exec >>"$log.out" 2>>"$log.err"',
        "case $SLURM_ARRAY_TASK_ID in",
    ]
    for index, task in enumerate(tasks):
        arguments = (task.name, task.directory, task.log, *task.command)
        lines.append(f"{index}) set -- {_quote(*arguments)} ;;")
    lines += ["*) exit 1 ;;", "esac", f"cd {_quote(ROOT)} || exit 1"]
    # The command replaces the shell of the batch step, without srun. Signals then have one
    # receiver, and the exit code of the job is that of the run.
    program = _quote(sys.executable, "-u", "-m", "flaxres.experiments.executors.slurm_node", folder)
    lines.append(f'exec {program} "$@"')
    return os.fsencode("\n".join(lines) + "\n")


def _quote(*arguments: object) -> str:
    return shlex.join(map(str, arguments))


def task_digest(task: Task) -> str:
    """Returns a digest of a task, by which a later executor finds its job."""
    fields = [task.name, *map(str, (task.directory, task.log)), *task.command]
    return hashlib.sha256(b"\0".join(map(os.fsencode, fields))).hexdigest()


def write_record(folder: Path, array_id: str, tasks: Sequence[Task]) -> None:
    """Writes the digests of the tasks of an array.

    Raises:
      OSError: the file cannot be written.
    """
    content = json.dumps({"tasks": [task_digest(task) for task in tasks]})
    write_atomically(folder / f"{array_id}_tasks.json", content + "\n")


def read_records(folder: Path) -> dict[str, str]:
    """Returns the digest of the task of each recorded job, by job id; skips damaged records."""
    digests: dict[str, str] = {}
    for path in sorted(folder.glob("*_tasks.json")):
        if not (match := RECORD.fullmatch(path.name)):
            continue
        try:
            with open(open_regular(path, os.O_RDONLY), "rb") as file:
                record = msgspec.json.decode(file.read(), type=TaskRecord)
        except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
            continue
        digests |= {f"{match[1]}_{i}": digest for i, digest in enumerate(record.tasks)}
    return digests
