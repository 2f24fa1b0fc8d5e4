import json

import pytest

SPREAD = {"median": 2.0, "low": 1.5, "high": 2.5}


def train_step_result(model):
    implementations = {
        f"{framework} {dtype} {mode}": {
            "framework": framework,
            "dtype": dtype,
            "mode": mode,
            "images_per_second": {name: factor * value for name, value in SPREAD.items()},
        }
        for framework, mode, factor in (
            ("flaxres", "", 3),
            ("torch", "eager", 1),
            ("torch", "compiled", 2),
        )
        for dtype in ("float32", "bfloat16")
    }
    return {"net": model, "device": "cpu", "image": [32, 32, 3], "implementations": implementations}


def test_figure_of_benchmark_results(python, tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([train_step_result("resnet-20"), train_step_result("plain-56")])
    )
    (tmp_path / "b.json").write_text(
        json.dumps(
            [
                {"net": "resnet-20", "device": "cpu", "depth": depth, "step_seconds": SPREAD}
                for depth in (20, 56)
            ]
        )
    )
    files = (f"--train_step={tmp_path / 'a.json'}", f"--depth={tmp_path / 'b.json'}")
    result = python("-m", "benchmarks.figure", *files, f"--output={tmp_path / 'figure.png'}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.usefixtures("isolated_flags")
def test_the_fastest_mode_is_drawn():
    from benchmarks.figure import fastest_speeds

    speeds = fastest_speeds(train_step_result("resnet-20")["implementations"].values())
    assert {key: speed["median"] for key, speed in speeds.items()} == {
        ("flaxres", "float32"): 6.0,
        ("flaxres", "bfloat16"): 6.0,
        ("torch", "float32"): 4.0,
        ("torch", "bfloat16"): 4.0,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --train_step or --depth"),
        (("--depth=none.json",), "none.json cannot be read"),
        (("--depth={path}",), "not from the benchmark that its flag expects"),
    ],
)
def test_wrong_input(python, tmp_path, flags, message):
    (tmp_path / "a.json").write_text(json.dumps([train_step_result("resnet-20")]))
    flags = (flag.format(path=tmp_path / "a.json") for flag in flags)
    result = python("-m", "benchmarks.figure", *flags, f"--output={tmp_path / 'figure.png'}")
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
