import concurrent.futures
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.errors import CheckpointError, DivergedError, WorkdirError
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.checkpoint_files import is_complete
from flaxres.run.orbax_files import digest


def make_state(value):
    rng = np.random.default_rng(value)
    return {
        "step": np.int32(value),
        "params": {"kernel": rng.normal(size=(64, 512)).astype(np.float32)},
        "flag": np.bool_(True),
    }


def is_equal(a, b):
    return digest(jax.tree.map(np.asarray, a)) == digest(jax.tree.map(np.asarray, b))


def fail_on_message(message):
    raise AssertionError(f"unexpected message: {message}")


def save_checkpoints(workdir, steps=(1, 2, 3)):
    with Checkpoints(workdir, keep=5) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))
    return workdir


def test_newest_checkpoint_is_restored_bit_for_bit(tmp_path):
    save_checkpoints(tmp_path)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]
        restored = checkpoints.restore(make_state(0), fail_on_message)
    assert is_equal(restored, make_state(3))
    assert restored["flag"].dtype == np.bool_


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, make_state(step))
        checkpoints.wait()
        assert checkpoints.steps() == [4, 5]


def test_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(make_state(0), fail_on_message) is None
    with Checkpoints(tmp_path / "nowhere") as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.restore(make_state(0), fail_on_message) is None
    assert not (tmp_path / "nowhere").exists()


def test_saving_a_step_twice_keeps_the_first_checkpoint(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save(1, make_state(2))
        checkpoints.wait()
        assert is_equal(checkpoints.restore(make_state(0), fail_on_message), make_state(1))


def test_buffers_may_be_donated_during_a_save(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path, keep=20) as checkpoints:
        for step in range(1, 11):
            state = jax.tree.map(jnp.asarray, make_state(step) | {"flag": np.zeros(3, np.float32)})
            checkpoints.save(step, state)
            overwrite(state)
    with Checkpoints(tmp_path) as checkpoints:
        for step in checkpoints.steps():
            expected = make_state(step) | {"flag": np.zeros(3, np.float32)}
            template = jax.tree.map(np.zeros_like, expected)
            assert is_equal(checkpoints._files.read(step, template), expected)


def test_a_save_returns_before_it_is_written(tmp_path, monkeypatch):
    """The checkpoint holds the values at the call, although the next step reuses the buffers."""
    returned = threading.Event()
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        save, returned_in_time = checkpoints._files.manager.save, []

        def slow_save(*args, **kwargs):
            returned_in_time.append(returned.wait(timeout=60))
            return save(*args, **kwargs)

        monkeypatch.setattr(checkpoints._files.manager, "save", slow_save)
        expected = {"kernel": make_state(1)["params"]["kernel"]}
        state = jax.tree.map(jnp.array, expected)
        checkpoints.save(1, state)
        assert (overwrite(state)["kernel"] == -1).all()
        assert state["kernel"].is_deleted()
        checkpoints.check()  # does not wait for the save
        assert checkpoints._pending_save is not None
        returned.set()
        checkpoints.wait()
        assert returned_in_time == [True]
        assert is_equal(checkpoints.restore(expected, fail_on_message), expected)


def raise_disk_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def raise_workdir_error():
    raise WorkdirError("metrics cannot be written")


@pytest.mark.parametrize("raised_by", ["save", "check", "wait", "exit"])
@pytest.mark.parametrize("failing_part", ["before_save", "manager"])
def test_an_error_in_the_background_is_raised_once(tmp_path, monkeypatch, raised_by, failing_part):
    error, message, before_save = WorkdirError, "metrics cannot be written", raise_workdir_error
    if failing_part == "manager":
        error, message, before_save = CheckpointError, "checkpoint 1 is kept", lambda: None

    def fail(checkpoints):
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        if failing_part == "manager":
            monkeypatch.setattr(checkpoints._files.manager, "save", raise_disk_full)
        checkpoints.save(2, make_state(2), before_save=before_save)
        if raised_by == "check":
            concurrent.futures.wait([checkpoints._pending_save], timeout=60)

    if raised_by == "exit":
        with pytest.raises(error, match=message), Checkpoints(tmp_path, keep=5) as checkpoints:
            fail(checkpoints)
        return
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        fail(checkpoints)
        call = {
            "save": lambda: checkpoints.save(3, make_state(3)),
            "check": checkpoints.check,
            "wait": checkpoints.wait,
        }[raised_by]
        with pytest.raises(error, match=message):
            call()
        checkpoints.wait()
        assert checkpoints.steps() == [1]


def files_by_size(tmp_path, step):
    directory = tmp_path / "checkpoints" / str(step)
    return sorted((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "emptied"])
def test_damage_falls_back_to_the_previous_checkpoint(tmp_path, damage):
    save_checkpoints(tmp_path)
    largest = files_by_size(tmp_path, 3)[-1]
    content = bytearray(largest.read_bytes())
    if damage == "truncated":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        largest.write_bytes(content)
    elif damage == "removed":
        largest.unlink()
    else:
        for file in files_by_size(tmp_path, 3):
            file.write_bytes(b"")
    messages = []
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        restored = checkpoints.restore(make_state(0), messages.append)
        assert is_equal(restored, make_state(2))
        assert len(messages) == 1
        assert messages[0].startswith("checkpoint 3 is damaged (")
        assert messages[0].endswith("falling back to checkpoint 2")
        assert "\n" not in messages[0]
        # The damaged checkpoint is moved, not lost, and its step can be saved again.
        assert (tmp_path / "checkpoints_damaged" / "3-0").is_dir()
        checkpoints.save(3, make_state(33))
        checkpoints.wait()
        assert is_equal(checkpoints.restore(make_state(0), fail_on_message), make_state(33))


def test_read_only_access_does_not_move_damaged_checkpoints(tmp_path):
    save_checkpoints(tmp_path)
    files_by_size(tmp_path, 3)[-1].unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert is_equal(checkpoints.restore(make_state(0), lambda _: None), make_state(2))
    assert (tmp_path / "checkpoints" / "3").is_dir()


def test_all_checkpoints_are_damaged(tmp_path):
    save_checkpoints(tmp_path, steps=(1, 2))
    for step in (1, 2):
        files_by_size(tmp_path, step)[-1].unlink()
    with (
        Checkpoints(tmp_path, keep=5) as checkpoints,
        pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* can be read"),
    ):
        checkpoints.restore(make_state(0), fail_on_message)
    assert len(files_by_size(tmp_path, 1)) > 1


def test_a_state_with_nans_is_not_saved(tmp_path):
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        checkpoints.save(1, make_state(1))
        state = make_state(2)
        state["params"]["kernel"][3, 4] = np.nan
        checkpoints.save(2, state)
        with pytest.raises(DivergedError, match=r"params.*kernel.* is not finite at step 2"):
            checkpoints.wait()
        checkpoints.wait()
        assert checkpoints.steps() == [1]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from flaxres.run.checkpoint import Checkpoints
from flaxres.errors import CheckpointError
from tests.run.test_checkpoint import make_state
checkpoints = Checkpoints(Path(sys.argv[1]), keep=5)
checkpoints.save(1, make_state(1))
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, make_state(2))
    checkpoints.wait()
except CheckpointError as error:
    print(error)
"""


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path):
    """A limit on file sizes makes writes fail, as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "could not save a checkpoint" in done.stdout, done.stdout + done.stderr
    assert "checkpoint 1 is kept" in done.stdout
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert checkpoints.steps() == [1]
        assert is_equal(checkpoints.restore(make_state(0), fail_on_message), make_state(1))


NAMES = (
    *("[x]", "[red]x[/red]", "{a,b}*?", "back\\slash", "a\nb", "~", "x~", "-x", "n" * 255),
    *("gs:/x", os.fsdecode(b"\xff\xfe"), "/".join(["d" * 200] * 18)),
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_workdirs(tmp_path, name):
    """Orbax and TensorStore change or refuse some of these."""
    workdir = tmp_path / name
    os.makedirs(workdir)
    save_checkpoints(workdir, steps=(1, 2))
    (workdir / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    messages = []
    with Checkpoints(workdir, keep=2) as checkpoints:
        assert is_equal(checkpoints.restore(make_state(0), messages.append), make_state(2))
        checkpoints.save(3, make_state(3))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    assert messages == []
    assert sorted(os.listdir(workdir / "checkpoints")) == ["2", "3"]
    files_by_size(workdir, 3)[-1].unlink()
    with Checkpoints(workdir) as checkpoints:
        assert is_equal(checkpoints.restore(make_state(0), messages.append), make_state(2))
    assert "/proc" not in messages[0]
    assert len([path for path in tmp_path.iterdir() if path.name != name.partition("/")[0]]) == 0


def test_saves_follow_a_renamed_workdir(tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    workdir.mkdir()
    with Checkpoints(workdir, keep=3) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        workdir.rename(moved)
        checkpoints.save(2, make_state(2))
    with Checkpoints(moved) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert is_equal(checkpoints.restore(make_state(0), fail_on_message), make_state(2))
    assert not workdir.exists()


def replace_by_file(path):
    shutil.rmtree(path)
    path.write_text("x")


def replace_by_dangling_link(path):
    shutil.rmtree(path)
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path / "state"), "checkpoint 3 is damaged"),
        (lambda path: shutil.rmtree(path / "digest"), "checkpoint 3 is damaged"),
        (lambda path: path.rename(path.with_name("foo")), "/foo is not the checkpoint of a step"),
        (lambda path: path.rename(path.with_name("03")), "/03 is not the checkpoint of a step"),
        (lambda path: path.rename(path.with_name("-3")), "/-3 is not the checkpoint of a step"),
        (replace_by_file, "/3 is not the checkpoint of a step"),
        (replace_by_dangling_link, "/3 is not the checkpoint of a step"),
    ],
)
def test_a_checkpoint_that_is_none(tmp_path, damage, message):
    save_checkpoints(tmp_path)
    assert is_complete(tmp_path, 3)
    damage(tmp_path / "checkpoints" / "3")
    assert not is_complete(tmp_path, 3)
    messages = []
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        assert is_equal(checkpoints.restore(make_state(0), messages.append), make_state(2))
        assert len(messages) == 1
        assert message in messages[0]
        checkpoints.save(3, make_state(3))
        checkpoints.wait()
        assert checkpoints.is_valid(3, make_state(0))
    assert is_complete(tmp_path, 3)


@pytest.mark.parametrize("content", ["null", "{}", "[]"])
def test_a_digest_with_another_structure(tmp_path, content):
    save_checkpoints(tmp_path)
    (tmp_path / "checkpoints" / "3" / "digest" / "metadata").write_text(content)
    messages = []
    with Checkpoints(tmp_path) as checkpoints:
        assert is_equal(checkpoints.restore(make_state(0), messages.append), make_state(2))
    assert "checkpoint 3 is damaged (its metadata cannot be read)" in messages[0]


def test_checkpoints_of_other_names_are_not_passed_over(tmp_path):
    save_checkpoints(tmp_path, steps=(3,))
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "checkpoints" / "foo")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="but foo; a"):
        checkpoints.restore(make_state(0), fail_on_message)


def test_a_checkpoint_of_a_later_step_does_not_swallow_a_save(tmp_path):
    save_checkpoints(tmp_path, steps=(3,))
    with (
        pytest.raises(CheckpointError, match="there is a checkpoint of a later step"),
        Checkpoints(tmp_path, keep=5) as checkpoints,
    ):
        checkpoints.save(2, make_state(2))


@pytest.mark.parametrize("keep", [None, 5])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("x"), "checkpoints must be a directory, but it is a file"),
        (lambda path: path.symlink_to("/nowhere"), "checkpoints is a link to /nowhere, which"),
    ],
)
def test_a_directory_of_checkpoints_that_is_none(tmp_path, make, message, keep):
    make(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=message):
        Checkpoints(tmp_path, keep)
