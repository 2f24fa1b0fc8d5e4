"""Archive of the results of a sweep: a results directory that is updated while runs train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flaxres.errors import DamagedFileError, WorkdirError, print_note
from flaxres.experiments.results.plan_file import PLAN_FILE, FlatConfig, planned_runs
from flaxres.experiments.results.run_names import check_inside, run_directories
from flaxres.experiments.results.runs import RESPONSES_FILE, export_run, read_run
from flaxres.files import write_atomically
from flaxres.run.config_changes import CHANGES_FILE
from flaxres.run.workdir import CONFIG_FILE, differing_fields

PYTORCH_DIRECTORY = "pytorch"  # runs in PyTorch, in a workdir and in its results directory


def pytorch_runs(results: Path) -> Path | None:
    """Returns the directory with the PyTorch runs of a results directory; None without any."""
    directory = results / PYTORCH_DIRECTORY
    return directory if run_directories(directory) else None


class ResultsArchive:
    """Exports the runs of a workdir to a results directory.

    Finished runs are exported in a background thread, so that the other runs can go on training.

    Attributes:
      directory: the results directory.
    """

    def __init__(
        self,
        workdir: Path,
        directory: Path,
        write_responses: Callable[[Path, Path], None],
        drop_checkpoints: bool = False,
    ):
        """Starts the thread.

        Args:
          workdir: workdir of the sweep.
          directory: results directory.
          write_responses: `write_responses(run, target)` measures the layer responses of the run in
            the directory `run` and writes them to the directory `target`.
          drop_checkpoints: if True, deletes the checkpoints of a finished run after its export.
        """
        self._workdir = workdir
        self.directory = directory
        self._write_responses = write_responses
        self._drop_checkpoints = drop_checkpoints
        self._thread = ThreadPoolExecutor(1)
        self._exports: dict[str, Future[None]] = {}

    def has_finished_run(self, name: str, config: FlatConfig) -> bool:
        """Returns True if the directory has all results of a finished run.

        Args:
          name: name of the run, VARIANT/seed-N.
          config: config of the run.

        Raises:
          DamagedFileError: the results cannot be read.
          WorkdirError: the results belong to another config.
        """
        directory = self.directory / name
        run = read_run(directory) if (directory / CONFIG_FILE).exists() else None
        if run is None or not run.finished:
            return False
        if fields := differing_fields(run.config, config):
            values = "; ".join(
                f"{field} is {run.config[field]!r} in the results and {config[field]!r} in this run"
                for field in fields
            )
            raise WorkdirError(
                f"{self.directory / name} holds results of another config: {values}; "
                "choose another --results"
            )
        return (self.directory / name / RESPONSES_FILE).exists()

    def add_finished_run(self, name: str) -> None:
        """Exports a finished run in the background, unless this was called for it before."""
        if name not in self._exports:
            self._exports[name] = self._thread.submit(self._export_finished_run, name)

    def _export_finished_run(self, name: str) -> None:
        source, target = self._workdir / name, self.directory / name
        run = read_run(source)
        if run is None:
            raise WorkdirError(f"{source} holds a finished run without metrics")
        export_run(run, target)
        if (source / CHANGES_FILE).exists():
            shutil.copyfile(source / CHANGES_FILE, target / CHANGES_FILE)
        self._write_responses(source, target)
        if self._drop_checkpoints:
            shutil.rmtree(source / "checkpoints")

    def update(self, planned: Mapping[str, FlatConfig]) -> None:
        """Waits for the background exports, exports unfinished runs and updates sweep.json.

        Args:
          planned: configs of all planned runs, by run name; {} leaves sweep.json as it is.

        Raises:
          UserError: a file cannot be read or written.
        """
        try:
            for export in self._exports.values():
                export.result()
            self._export_newer_runs(self._workdir, self.directory)
            self._export_newer_runs(
                self._workdir / PYTORCH_DIRECTORY, self.directory / PYTORCH_DIRECTORY
            )
            if planned:
                configs = planned_runs(self.directory) | {
                    name: dict(config) for name, config in planned.items()
                }
                for config in configs.values():
                    config["dataset.data_dir"] = None  # depends on the machine
                write_atomically(self.directory / PLAN_FILE, json.dumps(configs) + "\n")
        except OSError as error:
            raise WorkdirError(f"{self.directory} cannot be written ({error.strerror})") from error

    def _export_newer_runs(self, workdir: Path, directory: Path) -> None:
        """Exports the runs that have more steps in the workdir than in the results directory."""
        for path in run_directories(workdir):
            name = path.relative_to(workdir)
            exported_path = directory / name
            try:
                check_inside(path, workdir)
                run = read_run(path)
                exported = (
                    read_run(exported_path) if (exported_path / CONFIG_FILE).exists() else None
                )
            except DamagedFileError as error:
                print_note(f"{name} is not exported: {error}")
                continue
            if run and (exported is None or run.step > exported.step):
                export_run(run, exported_path)
