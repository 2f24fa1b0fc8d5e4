"""Arguments of the Ray executor; tests/cluster/test_ray.py has the tests with a cluster."""

from pathlib import Path

import pytest

from flaxres.errors import ConfigError
from flaxres.experiments.executors import ray as ray_executor
from flaxres.experiments.executors.ray import RayExecutor


@pytest.mark.parametrize("root", ["/home/a:b", "/home/${HOME}"])
def test_a_repository_that_pythonpath_cannot_name(monkeypatch, root):
    monkeypatch.setattr(ray_executor, "ROOT", Path(root))
    with pytest.raises(ConfigError, match=r"must not contain : or \$, got '/home/.*; move flaxres"):
        RayExecutor(address=None, cpus_per_task=1, gpus_per_task=0, resources={})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpus_per_task": 0}, "cpus_per_run must be above 0, got 0"),
        ({"processes_per_run": 0}, "processes_per_run must be at least 1, got 0"),
        ({"gpus_per_task": float("nan")}, "got gpus_per_run=nan"),
        ({"resources": {"TPU": -1.0}}, "got TPU=-1"),
        ({"resources": {"TPU": float("inf")}}, "got TPU=inf"),
        ({"resources": {"": 1.0}}, "got =1"),
    ],
)
def test_amounts_that_no_cluster_has(arguments, message):
    defaults = {"address": None, "cpus_per_task": 1, "gpus_per_task": 0, "resources": {}}
    with pytest.raises(ConfigError, match=message):
        RayExecutor(**defaults | arguments)
