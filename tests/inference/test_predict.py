import json

import numpy as np
import pytest
from PIL import Image

from flaxres.data import load_dataset
from flaxres.errors import ConfigError
from flaxres.inference.predict import PredictionError, find_images, print_predictions
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import load_trained_model
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.test_main import fails


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a directory with class folders of JPEGs of two sizes, and a run trained on them."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for name, level in (("dark", 40), ("bright", 200), ("striped", 120)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                width, height = (12, 9) if i % 2 else (8, 8)
                pixels = rng.normal(level, 20, (height, width, 3))
                pixels[:, ::2] += 60 * (name == "striped")
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / split / name / f"{i}.jpg")
    config = small_config()
    config.num_steps, config.boundaries = 12, (6, 9)
    config.dataset.name, config.dataset.data_dir = "folder", str(root)
    config.dataset.image_size = 8
    train_and_evaluate(config, root / "run")
    return root


def printed_json(capsys):
    out = capsys.readouterr().out
    return [json.loads(line) for line in out.splitlines()]


def test_predictions_are_those_of_the_evaluation(folder, capsys):
    """Compares all classes of all test images with predictions for the split's arrays."""
    trained = load_trained_model(folder / "run")
    assert trained.input_spec.class_names == ("bright", "dark", "striped")
    trained.config.eval_batch_size = 4  # fifteen images, so the last batch is padded
    print_predictions(trained, [f"{folder}/test/*/*.jpg"], as_json=True)
    lines = printed_json(capsys)
    split = load_dataset(trained.config.dataset).test
    log_probabilities = np.asarray(Predictor([trained], trained.config).launch(split.images, 15))
    rows = []
    for line in lines:
        values = [p["probability"] for p in line["predictions"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
        by_name = {p["class"]: p["probability"] for p in line["predictions"]}
        label = line["image"].split("/")[-2]
        label_index = trained.input_spec.class_names.index(label)
        rows.append([label_index, *(by_name[name] for name in sorted(by_name))])
    expected = np.column_stack([split.labels, np.exp(log_probabilities)])
    np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(expected, axis=0), atol=1e-5)
    print_predictions(trained, [f"{folder}/test/dark/0.jpg"], top=2, as_json=True)
    ((top_two,), all_classes) = printed_json(capsys), lines[5]
    assert top_two["image"] == all_classes["image"] == f"{folder}/test/dark/0.jpg"
    assert [p["class"] for p in top_two["predictions"]] == [
        p["class"] for p in all_classes["predictions"][:2]
    ]


def test_files_that_fail_get_a_line_each_and_others_are_printed(folder, tmp_path, capsys):
    trained = load_trained_model(folder / "run")
    (tmp_path / "cut.jpg").write_bytes((folder / "test/dark/0.jpg").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("nothing")
    (tmp_path / "empty.jpg").write_text("")
    names = [tmp_path / "cut.jpg", tmp_path / "text.jpg", tmp_path / "empty.jpg"]
    names += [tmp_path / "none.jpg", tmp_path / "a*.gif", tmp_path]
    names.insert(1, folder / "test/bright/1.jpg")
    with pytest.raises(PredictionError) as last:
        print_predictions(trained, list(map(str, names)), as_json=True)
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert json.loads(line)["image"] == str(names[1])
    errors = [*printed.err.splitlines(), f"error: {last.value}"]
    assert len(errors) == 6
    for name in ("cut.jpg", "text.jpg"):
        (error,) = [e for e in errors if name in e]
        assert "cannot be decoded (" in error
        assert "broken_images" not in error  # that advice is for data sets
    for part in ("empty.jpg is empty", f"file {names[4]} does not exist", "no file matches"):
        assert any(part in error for error in errors)
    assert f"error: {tmp_path} is a directory; give its files, e.g. {tmp_path}/*.jpg" in errors


def test_files_are_listed_once_and_names_may_contain_brackets(tmp_path):
    for name in ("b.jpg", "a.jpg", "a[1].jpg"):
        (tmp_path / name).write_text("")
    files, errors = find_images([f"{tmp_path}/a[1].jpg", f"{tmp_path}/b.jpg", f"{tmp_path}/*.jpg"])
    assert [file.rpartition("/")[2] for file in files] == ["a[1].jpg", "b.jpg", "a.jpg"]
    assert errors == []
    (tmp_path / "[c]").mkdir()
    (tmp_path / "[c]" / "d.jpg").write_text("")
    assert find_images([f"{tmp_path}/[c]/*.jpg"]) == ([f"{tmp_path}/[c]/d.jpg"], [])


def test_a_table_on_the_command_line(folder, python):
    arguments = ("-m", "flaxres.main", "--mode=predict", f"--workdir={folder / 'run'}")
    done = python(*arguments, f"--images={folder}/test/dark/0.jpg,{folder}/no.jpg", "--top=2")
    assert done.returncode == 1
    assert done.stderr == f"error: file {folder}/no.jpg does not exist\n"
    rows = [line.split() for line in done.stdout.splitlines()]
    (first,) = [i for i, row in enumerate(rows) if row and row[0].endswith("dark/0.jpg")]
    values = [float(rows[first][2]), float(rows[first + 1][1])]
    assert values[0] >= values[1]
    assert {rows[first][1], rows[first + 1][0]} < {"dark", "bright", "striped"}
    fails(python(*arguments), 2, "--images is missing")


def test_fewer_than_one_class(folder):
    with pytest.raises(ConfigError, match="top must be at least 1, got 0"):
        print_predictions(load_trained_model(folder / "run"), ["a.jpg"], top=0)


def test_test_crops_of_a_folder_on_the_command_line(folder, python):
    arguments = ("-m", "flaxres.main", "--mode=eval", f"--workdir={folder / 'run'}")
    done = python(*arguments, "--test_crops=multi-scale", "--scales=8,11", "--splits=test")
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(": ") for line in done.stdout.splitlines())
    assert set(printed) == {
        "step",
        "test_loss",
        "test_error",
        "test_images",
    }  # no top-5 error of three classes
    assert printed["test_images"] == "15"
    assert done.stderr.startswith("multi-scale: whole images and their mirror images, short sides")
    broken = folder / "test" / "dark" / "0.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[:100].ljust(len(content), b"\0"))  # of the same size
    try:
        fails(python(*arguments, "--splits=test"), 1, str(broken), "cannot be decoded")
    finally:
        broken.write_bytes(content)
