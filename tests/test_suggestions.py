"""Suggestions for misspelled names."""

import itertools

import pytest

from flaxres.suggestions import (
    did_you_mean,
    edit_distance,
    nearest_fields,
    nearest_names,
    similar_directory,
)

MODES = ("train", "eval", "predict", "export", "summary")
FIELDS = ("learning_rate", "warmup.learning_rate", "model.depth", "num_steps", "batch_size", "seed")


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("tain", MODES, ["train"]),
        ("Eval", MODES, ["eval"]),
        ("evaluate", MODES, ["eval"]),
        ("predcit", MODES, ["predict"]),
        ("frobnicate", MODES, []),
        ("eval", MODES, []),  # exists
        ("", MODES, []),
        ("test_crop", ("test-crops", "top"), ["test-crops"]),
        ("resnet-21", ("resnet-20", "resnet-26", "plain-20"), ["resnet-20", "resnet-26"]),
        ("foo", ("vgg", "jit", "None"), []),
        ("a" * 10**6, ("b",), []),
    ],
)
def test_nearest_names(name, names, expected):
    assert nearest_names(name, names) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("lerning_rate", ["learning_rate"]),
        ("dataset.learning_rate", ["learning_rate", "warmup.learning_rate"]),
        ("warmup.lerning_rate", ["warmup.learning_rate"]),
        ("depth", ["model.depth"]),
        ("steps", ["num_steps"]),
        ("lr", ["learning_rate", "warmup.learning_rate"]),
        ("zzz", []),
    ],
)
def test_nearest_fields(field, expected):
    assert nearest_fields(field, FIELDS) == expected


def test_the_form_of_a_message():
    assert did_you_mean("tain", MODES) == "; did you mean 'train'?"
    assert did_you_mean("x1", ("x2", "x3"), "--{}") == "; did you mean --x2 or --x3?"
    assert did_you_mean("zzz", MODES) == ""


def test_similar_directories(tmp_path):
    (tmp_path / "resnet-56").mkdir()
    (tmp_path / "resnet-65.txt").touch()
    missing = tmp_path / "resnet-65"
    assert similar_directory(missing) == f"; did you mean {str(tmp_path / 'resnet-56')!r}?"
    assert similar_directory(tmp_path / "nowhere" / "x") == ""


def _all_edits(text):
    """Yields the texts at distance 1, by the definition of an edit."""
    for i in range(len(text) + 1):
        yield from (text[:i] + letter + text[i:] for letter in "ab")
        if i < len(text):
            yield text[:i] + text[i + 1 :]
            yield from (text[:i] + letter + text[i + 1 :] for letter in "ab")
        if i + 1 < len(text):
            yield text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def test_edit_distance_against_a_search():
    texts = ["".join(t) for n in range(5) for t in itertools.product("ab", repeat=n)]
    for text in texts:
        near = set(_all_edits(text)) | {text}
        for other in texts:
            assert edit_distance(text, other) == edit_distance(other, text)
            assert (edit_distance(text, other) <= 1) == (other in near)
