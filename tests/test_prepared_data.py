"""Prepared data sets, found by their files."""

from flaxres.prepared_data import default_data_dir, list_prepared


def test_list_prepared(tmp_path):
    for path in ("cifar10/3.0.2", "cifar10/3.0.1", "imagenet_resized/32x32/0.1.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").touch()
    (tmp_path / "downloads/x").mkdir(parents=True)
    assert list_prepared(tmp_path) == ["cifar10", "imagenet_resized/32x32"]
    assert list_prepared(tmp_path / "nowhere") == []


def test_default_data_dir(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    assert default_data_dir() == "/data"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert default_data_dir() == "~/tensorflow_datasets"
