"""Commands that run one after another within a time limit, and a summary of their states."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxres.errors import UserError, counted
from flaxres.files import write_atomically
from flaxres.run.preemption import PARENT_VARIABLE

# States of a part.
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
CUT_OFF, SKIPPED = "cut off", "skipped"
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL
MAX_PRINTED_CHARACTERS = 4_000  # of the end of a part's output


@dataclasses.dataclass(frozen=True)
class Part:
    """A command with a time limit.

    Attributes:
      name: name of its files.
      command: program and arguments.
      max_seconds: time limit.
      min_seconds: the part is skipped if less time remains.
      cpu_skip_reason: why the part cannot run on a CPU, or ''.
    """

    name: str
    command: tuple[str, ...]
    max_seconds: float
    min_seconds: float
    cpu_skip_reason: str = ""


@dataclasses.dataclass
class Outcome:
    """State of a part and how it ended.

    Attributes:
      name: name of the part.
      command: its command.
      on_cpu: True if JAX ran on a CPU.
      state: one of the states above.
      detail: reason for the state.
      exit_code: exit code of the command, negative for a signal; None if it has not ended.
      seconds: run time in seconds.
    """

    name: str
    command: list[str]
    on_cpu: bool
    state: str = WAITING
    detail: str = ""
    exit_code: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"{self.name:32} {self.state:8} {seconds:>6}  {self.detail}".rstrip()


def run_parts(
    parts: Sequence[Part],
    out: Path,
    deadline: float,
    on_cpu: bool,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs the parts that are not done, and writes the summary before and after each.

    Args:
      parts: the parts, in order.
      out: directory for NAME.txt of each part, summary.json and summary.txt.
      deadline: value of `clock` at which the running part is cut off.
      on_cpu: True if JAX runs on a CPU.
      clock: returns the time in seconds.

    Raises:
      UserError: a part failed or was cut off, the directory has results of other commands or of
        another device, the summary of an earlier run cannot be read, or a file cannot be written.
    """
    try:
        _run_parts(parts, out, deadline, on_cpu, clock)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); set another --out") from None


def _run_parts(
    parts: Sequence[Part], out: Path, deadline: float, on_cpu: bool, clock: Callable[[], float]
) -> None:
    """Does what `run_parts` says, with OSError for files that cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    earlier = _read_summary(out)
    outcomes = [Outcome(part.name, list(part.command), on_cpu) for part in parts]
    current = {outcome.name: i for i, outcome in enumerate(outcomes)}
    for found in earlier.values():
        if found.state != DONE or not (out / f"{found.name}.json").is_file():
            continue
        i = current.get(found.name)
        if i is None or (found.command, found.on_cpu) != (outcomes[i].command, on_cpu):
            raise UserError(
                f"{out} has the result {found.name}.json of another command or device, which would "
                "be lost; set another --out"
            )
        outcomes[i] = found
    num_left = 0
    for part, outcome in zip(parts, outcomes, strict=True):
        remaining = deadline - clock()
        if outcome.state == DONE:
            print(f"== {part.name}: done by an earlier run", flush=True)
        elif on_cpu and part.cpu_skip_reason:
            outcome.state, outcome.detail = SKIPPED, part.cpu_skip_reason
        elif remaining < part.min_seconds:
            num_left += 1
            left = f"{max(0.0, remaining):.0f} s are left"
            outcome.state, outcome.detail = SKIPPED, f"needs {part.min_seconds:.0f} s, {left}"
        else:
            try:
                _run(part, outcome, out, min(part.max_seconds, remaining), outcomes)
            finally:  # also when this process is stopped
                _write_summary(out, outcomes)
            continue
        if outcome.state == SKIPPED:
            print(f"== {part.name}: skipped, {outcome.detail}", flush=True)
        _write_summary(out, outcomes)
    print("\n".join(map(str, outcomes)), flush=True)
    last_line = f"Results are in {out}."
    if num_left:
        parts_left = f"{counted(num_left, 'part')} did not fit into the time"
        last_line += f" {parts_left}; rerun the command to run {'them' if num_left > 1 else 'it'}."
    print(last_line, flush=True)
    if bad := [outcome.name for outcome in outcomes if outcome.state in (FAILED, CUT_OFF)]:
        raise UserError(
            f"parts failed or were cut off: {', '.join(bad)}. See {out / 'summary.txt'}."
        )


def _run(
    part: Part, outcome: Outcome, out: Path, limit: float, outcomes: Sequence[Outcome]
) -> None:
    """Runs a part and updates its outcome. Its output is written to NAME.txt while it runs."""
    print(f"== {part.name}: {' '.join(part.command)}", flush=True)
    path = out / f"{part.name}.txt"
    (out / f"{part.name}.json").unlink(missing_ok=True)  # left by an earlier run
    outcome.state = RUNNING
    _write_summary(out, outcomes)
    start = time.monotonic()
    try:
        with path.open("wb") as file:
            process = subprocess.Popen(
                part.command,
                # PARENT_VARIABLE ends the part with this process. The new session lets `_end` stop
                # its workers too.
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            outcome.exit_code = process.wait(limit)
            outcome.state = FAILED if outcome.exit_code else DONE
            outcome.detail = f"exit code {outcome.exit_code}" if outcome.exit_code else ""
        except subprocess.TimeoutExpired:
            outcome.state, outcome.detail = CUT_OFF, f"after {limit:.0f} s"
        except BaseException:
            outcome.state, outcome.detail = CUT_OFF, "the run was stopped"
            raise
        finally:
            _end(process)
    except OSError as error:
        outcome.state, outcome.detail = FAILED, str(error)
    finally:
        outcome.seconds = time.monotonic() - start
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = text.strip().splitlines()
        if outcome.state != DONE and lines:
            outcome.detail += f": {lines[-1].strip()}"
        print(text[-MAX_PRINTED_CHARACTERS:], flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops a process and all others of its session."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _read_summary(out: Path) -> dict[str, Outcome]:
    """Returns the outcomes of an earlier run by name; {} if there was none."""
    path = out / "summary.json"
    try:
        parts = json.loads(path.read_text())["parts"]
        return {entry["name"]: Outcome(**entry) for entry in parts}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it or set another --out"
        ) from None


def _write_summary(out: Path, outcomes: Sequence[Outcome]) -> None:
    parts = [dataclasses.asdict(outcome) for outcome in outcomes]
    write_atomically(out / "summary.json", json.dumps({"parts": parts}, indent=1) + "\n")
    write_atomically(out / "summary.txt", "\n".join(map(str, outcomes)) + "\n")
