"""Arguments of the Ray executor; tests/cluster/test_ray.py has the tests with a cluster."""

from pathlib import Path

import pytest

from experiments.executors import ray as ray_executor
from experiments.executors.ray import RayExecutor
from flaxres.errors import ConfigError


@pytest.mark.parametrize("root", ["/home/a:b", "/home/${HOME}"])
def test_a_repository_that_pythonpath_cannot_name(monkeypatch, root):
    monkeypatch.setattr(ray_executor, "ROOT", Path(root))
    with pytest.raises(ConfigError, match=r"must not contain : or \$, got '/home/.*; move the"):
        RayExecutor(address=None, cpus_per_task=1, gpus_per_task=0, resources={})
