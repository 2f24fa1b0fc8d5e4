"""Starts of a run that ended without a checkpoint, and commands that replace them."""

import json
import shutil
import signal

import pytest

from flaxres.errors import DatasetError, DivergedError, InterruptedRunError, WorkdirError
from flaxres.run.config_changes import read_config_changes
from flaxres.run.failed_start import replace_failed_start
from flaxres.run.records import read_metrics
from flaxres.run.tensorboard_files import EventFile
from flaxres.run.workdir import read_run_config
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.run_start import find_run_start
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_run_start import contents


def test_a_start_that_diverged_is_replaced_and_its_records_are_kept(tmp_path, capsys):
    wrong = small_config()
    wrong.learning_rate, wrong.boundaries, wrong.log_every = 1e12, (), 1
    wrong.checkpoint_every = 20
    with pytest.raises(DivergedError):
        train_and_evaluate(wrong, tmp_path / "run")
    num_records = len(read_metrics(tmp_path / "run"))
    assert num_records > 0
    capsys.readouterr()
    record = train_and_evaluate(small_config(), tmp_path / "run")
    assert record["step"] == 20
    step = num_records
    assert f"up to step {step} are kept in failed-start-1" in capsys.readouterr().err
    kept = tmp_path / "run" / "failed-start-1"
    assert len(read_metrics(kept)) == num_records
    assert read_run_config(kept).learning_rate == 1e12
    assert read_config_changes(tmp_path / "run") == ()


def test_a_start_with_missing_data_blocks_nothing(tmp_path):
    config = small_config()
    config.dataset.name, config.dataset.data_dir = "folder", str(tmp_path / "missing")
    with pytest.raises(DatasetError):
        train_and_evaluate(config, tmp_path / "run")
    assert train_and_evaluate(small_config(), tmp_path / "run")["step"] == 20


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_start_that_ends_while_it_compiles_is_replaced(tmp_path, monkeypatch, error):
    config = small_config()
    config.model.widths, config.num_replicas = (4, 4, 4), 2

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CompiledSteps, "compile_train_steps", fail)
        with pytest.raises(error):
            train_and_evaluate(config, tmp_path)
    assert (tmp_path / "config.json").exists()
    assert train_and_evaluate(small_config(), tmp_path)["step"] == 20
    assert not (tmp_path / "failed-start-1").exists()
    assert not (tmp_path / "seed-1" / "config.json").exists()


def test_a_stop_during_the_first_compilation_leaves_no_checkpoint(tmp_path, monkeypatch):
    compile_train_steps = CompiledSteps.compile_train_steps

    def compile_and_stop(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return compile_train_steps(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(CompiledSteps, "compile_train_steps", compile_and_stop)
        message = r"Stopped before the first of 20 steps\. Rerun the same command to start"
        with pytest.raises(InterruptedRunError, match=message):
            train_and_evaluate(small_config(), tmp_path)
    other = small_config()
    other.seed = 1
    assert train_and_evaluate(other, tmp_path)["step"] == 20


def test_a_run_with_real_work_is_never_replaced(finished):
    """Neither with a checkpoint, nor with a damaged one, nor with records that one preceded."""
    config = small_config()
    config.seed = 1
    for damage in (
        lambda: None,
        lambda: shutil.move(finished / "checkpoints/20", finished / "checkpoints_damaged"),
        lambda: shutil.rmtree(finished / "checkpoints"),
    ):
        damage()
        before = contents(finished)
        with pytest.raises(WorkdirError, match="seed is 0 in the workdir and 1 in this config"):
            train_and_evaluate(config, finished)
        assert contents(finished) == before


def test_other_files_in_directories_of_a_failed_start_are_kept(tmp_path):
    """A workdir such as '.' may have wandb/ and tensorboard/ of other programs."""
    config = small_config()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    for name in ("tensorboard", "wandb/offline-run"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine").write_text(name)
    EventFile(tmp_path / "tensorboard").close()
    assert "its files are kept in failed-start-1" in replace_failed_start(tmp_path)
    assert not (tmp_path / "config.json").exists()
    kept = tmp_path / "failed-start-1"
    assert (kept / "tensorboard/mine").read_text() == "tensorboard"
    assert (kept / "wandb/offline-run/mine").read_text() == "wandb/offline-run"


def test_a_failed_start_does_not_give_its_replicas_new_directories_of_runs(finished, tmp_path):
    config, workdir = small_config(), tmp_path / "failed"
    shutil.copytree(finished, workdir / "seed-1")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    config.num_replicas = 2
    with pytest.raises(WorkdirError, match="failed/seed-1 holds another run"):
        find_run_start(workdir, config)
