import os
import re
import subprocess

import pytest

from flaxres import version
from flaxres.data import load_dataset
from flaxres.training import compiled_steps
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.version import commit

AUTHOR_FIELDS = ("NAME", "EMAIL")


def git(directory, *arguments):
    """Runs git with an author and without the settings of this machine; returns its output."""
    roles = ("AUTHOR", "COMMITTER")
    author = {f"GIT_{role}_{field}": "a@b.c" for role in roles for field in AUTHOR_FIELDS}
    environment = os.environ | author | {"GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-C", str(directory), *arguments]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """Returns the directory of a package in a repository with one commit."""
    directory = tmp_path / "repository" / "package"
    directory.mkdir(parents=True)
    (directory / "__init__.py").write_text("")
    (directory.parent / "README").write_text("one\n")
    git(directory.parent, "init", "--quiet")
    git(directory.parent, "add", ".")
    git(directory.parent, "commit", "--quiet", "-m", "one")
    return directory


def test_the_commit_is_the_one_that_git_names(package):
    head = git(package, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert commit(package) == head
    (package / "new.py").write_text("")  # not tracked
    assert commit(package) == head
    os.utime(package / "__init__.py", (0, 0))  # new time of modification, same content
    assert commit(package) == head


@pytest.mark.parametrize("change", ["edited", "removed", "added"])
def test_uncommitted_changes_are_marked_dirty(package, change):
    readme = package.parent / "README"
    if change == "edited":
        readme.write_text("two\n")
    elif change == "removed":
        readme.unlink()
    else:
        (package / "new.py").write_text("")
        git(package, "add", "new.py")
    assert commit(package) == git(package, "rev-parse", "HEAD") + "-dirty"


def test_the_repository_is_not_changed(package):
    index = package.parent / ".git" / "index"
    os.utime(package / "__init__.py", (0, 0))
    before = index.read_bytes(), index.stat().st_mtime_ns
    commit(package)
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def test_an_installed_copy_inside_a_repository(package):
    installed = package.parent / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed) is None


def test_without_repository_commit_or_git(package, tmp_path, monkeypatch, capfd):
    bare = tmp_path / "elsewhere"
    bare.mkdir()
    (bare / "__init__.py").write_text("")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commit(bare) is None
    git(bare, "init", "--quiet")
    git(bare, "add", ".")
    assert commit(bare) is None
    assert commit(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", str(bare))
    assert commit(package) is None
    assert capfd.readouterr() == ("", "")


def test_git_that_hangs(package, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(version, "TIMEOUT", 0.1)
    assert commit(package) is None


def test_variables_of_a_git_hook_are_ignored(package, monkeypatch):
    head = git(package, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit(package) == head


def test_the_info_of_a_run_has_the_commit(config, monkeypatch):
    monkeypatch.setattr(compiled_steps, "commit", lambda: "abc-dirty")
    info = CompiledSteps(config, load_dataset(config.dataset)).info()
    assert info["commit"] == "abc-dirty"
