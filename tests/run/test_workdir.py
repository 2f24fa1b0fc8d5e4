import json
import os
import tempfile
from pathlib import Path

import pytest

from flaxres.configs import digits
from flaxres.errors import ConfigError, WorkdirError
from flaxres.run.workdir import (
    check_same_config,
    default_workdir,
    open_workdir,
    read_config,
)


def make_workdir(*args):
    """Opens a workdir as a run does, and closes it; returns the previous info."""
    with open_workdir(*args) as (previous_info, _):
        return previous_info


def test_default_workdir(config):
    assert str(default_workdir(config)) == "runs/digits/resnet-8-seed0"
    other_config = digits.get_config("resnet-56-B")
    other_config.seed = 3
    assert str(default_workdir(other_config)) == "runs/digits/resnet-56-B-seed3"
    for name in ("..", "../../evil", "/evil", "a/b"):
        other_config.name = name
        with pytest.raises(ConfigError, match=r"name must be one name without '/' and '..', got"):
            default_workdir(other_config)


def test_config_and_info_are_written(tmp_path, config):
    workdir = tmp_path / "a" / "b"
    assert not check_same_config(workdir, config)
    make_workdir(workdir, config, {"params": 3})
    assert json.loads((workdir / "config.json").read_text())["model"]["depth"] == 8
    assert json.loads((workdir / "info.json").read_text()) == {"params": 3}
    assert check_same_config(workdir, config)
    make_workdir(workdir, config, {"params": 3})


def test_another_config_is_rejected_with_the_differing_fields(tmp_path, config):
    make_workdir(tmp_path, config, {})
    old_content = (tmp_path / "config.json").read_text()
    config.seed = 5
    config.model.depth = 14
    config.boundaries = (7,)
    with pytest.raises(WorkdirError) as caught:
        make_workdir(tmp_path, config, {})
    assert "boundaries is (10, 15) in the workdir and (7,) in this config" in str(caught.value)
    assert "model.depth is 8 in the workdir and 14 in this config" in str(caught.value)
    assert "seed is 0 in the workdir and 5 in this config" in str(caught.value)
    assert (tmp_path / "config.json").read_text() == old_content


def test_fields_that_do_not_affect_results_may_change(tmp_path, config):
    make_workdir(tmp_path, config, {})
    config.dataset.data_dir = "/elsewhere"
    config.keep_checkpoints = 9
    config.checkpoint_every = 2
    config.model.remat = True
    make_workdir(tmp_path, config, {})
    assert json.loads((tmp_path / "config.json").read_text())["keep_checkpoints"] == 9


def test_fields_newer_than_the_run_have_their_defaults(tmp_path, config):
    make_workdir(tmp_path, config, {})
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["model"]["remat"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(tmp_path)["model.remat"] is False
    assert check_same_config(tmp_path, config)


def test_a_file_as_workdir_is_rejected(tmp_path, config):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(WorkdirError, match="is a file"):
        make_workdir(path, config, {})
    assert path.read_text() == "mine"


def test_a_workdir_that_cannot_be_created(config):
    with pytest.raises(WorkdirError, match=r"cannot be written .*; choose another --workdir"):
        make_workdir(Path(os.devnull) / "run", config, {})


@pytest.fixture
def without_root():
    """Drops the privileges of root, which may write everywhere."""
    if os.getuid() == 0:
        os.seteuid(65534)
    yield
    os.seteuid(os.getuid())


def test_a_read_only_workdir(config, without_root):
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        for workdir in (Path(directory), Path(directory) / "new"):
            with pytest.raises(WorkdirError, match=r"cannot be written \(Permission denied\)"):
                make_workdir(workdir, config, {})
        Path(directory).chmod(0o000)
        with pytest.raises(WorkdirError, match=r"cannot be read \(Permission denied\)"):
            make_workdir(Path(directory) / "run", config, {})
        Path(directory).chmod(0o755)


def test_a_run_without_config_is_rejected(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(WorkdirError, match=r"holds a run without config.json"):
        make_workdir(tmp_path, config, {})


def test_a_damaged_config_is_rejected(tmp_path, config):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match="is not valid JSON"):
        make_workdir(tmp_path, config, {})
    assert (tmp_path / "config.json").read_text() == "{"


def test_the_advice_for_another_config(tmp_path, config):
    config.boundaries = (2, 3)
    make_workdir(tmp_path, config, {})
    other = config.copy_and_resolve_references()
    other.boundaries = (2,)
    parts = r"boundaries is \(2, 3\) in the workdir and \(2,\) in this config; "
    with pytest.raises(
        WorkdirError, match=parts + r"rep.* such as --config.boundaries='\(2,3\)', o"
    ):
        check_same_config(tmp_path, other)
    with pytest.raises(WorkdirError, match=parts + "leave out --config to use the config in the"):
        check_same_config(tmp_path, other, is_training=False)
    other = config.copy_and_resolve_references()
    other.model.norm = "none"
    with pytest.raises(WorkdirError, match="; repeat the model and the overrides of the first com"):
        check_same_config(tmp_path, other)
