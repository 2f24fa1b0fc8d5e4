"""Tests of the former names of packages, in processes of their own outside of the repository."""

import subprocess
import sys

from tests.conftest import ROOT


def run_python(code, directory):
    """Runs code in a directory, where flaxres is importable but `experiments` is not."""
    head = f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    link = directory / "flaxres"
    link.symlink_to(ROOT / "flaxres")
    result = subprocess.run(
        [sys.executable, "-c", head + code], cwd=directory, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_former_names_are_the_same_modules(tmp_path):
    code = """
from flaxres.former_packages import register_former_packages
register_former_packages()
register_former_packages()
import configs.cifar10, flaxres.configs.cifar10
from experiments.sweeps import grid
import experiments.sweeps, flaxres.experiments.sweeps
assert configs.cifar10 is flaxres.configs.cifar10
assert experiments.sweeps is flaxres.experiments.sweeps
assert experiments.sweeps.__spec__.name == "flaxres.experiments.sweeps"
try:
    import experiments.no_such_module
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(code, tmp_path) == "No module named 'experiments.no_such_module'\n"


def test_a_users_package_has_priority(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("name = 'mine'\n")
    code = """
from flaxres.former_packages import register_former_packages
register_former_packages()
import experiments
print(experiments.name)
"""
    assert run_python(code, tmp_path) == "mine\n"
