import pytest

from flaxres.errors import WorkdirError
from flaxres.experiments.results.comparability import check_comparable, is_degradation_experiment
from flaxres.experiments.results.runs import find_runs
from tests.experiments.results.test_runs import write_run


def test_runs_of_different_experiments_are_refused(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20", dataset="cifar10", num_steps=60)
    runs = find_runs(tmp_path)
    assert not is_degradation_experiment(runs)
    configs = [run.config for group in runs.values() for run in group]
    with pytest.raises(
        WorkdirError, match=r"belong to different experiments: dataset\.name is 'digits' and"
    ):
        check_comparable(configs, tmp_path)


def test_degradation_experiments_have_variants_named_after_models(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20-B", seed=1)
    assert is_degradation_experiment(find_runs(tmp_path))
    (tmp_path / "resnet-20-B").rename(tmp_path / "resnet-20-slow")
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20", "resnet-20-slow"]
    assert not is_degradation_experiment(runs)
    (tmp_path / "resnet-20-slow").rename(tmp_path / "resnet-20-B")
    write_run(tmp_path, "densenet-40-12")
    assert not is_degradation_experiment(find_runs(tmp_path))
