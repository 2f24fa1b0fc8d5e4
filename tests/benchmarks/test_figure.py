import json

import pytest

SPREAD = {"median": 2.0, "low": 1.5, "high": 2.5}


def sides(net):
    return {"net": net, "device": "cpu"} | {
        side: {"images_per_second": SPREAD} for side in ("flaxres", "torch eager")
    }


def test_draws_what_the_benchmarks_wrote(python, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([sides("resnet-20"), sides("plain-56")]))
    (tmp_path / "b.json").write_text(
        json.dumps(
            [
                {"net": "resnet-20", "device": "cpu", "depth": depth, "step_seconds": SPREAD}
                for depth in (20, 56)
            ]
        )
    )
    files = (f"--train_step={tmp_path / 'a.json'}", f"--depth={tmp_path / 'b.json'}")
    done = python("-m", "benchmarks.figure", *files, f"--output={tmp_path / 'figure.png'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ((), "give --train_step or --depth"),
        (("--depth=none.json",), "none.json cannot be read"),
        (("--depth={there}",), "not of the benchmark that its flag says"),
    ],
)
def test_wrong_input(python, tmp_path, flags, part):
    (tmp_path / "a.json").write_text(json.dumps([sides("resnet-20")]))
    flags = (flag.format(there=tmp_path / "a.json") for flag in flags)
    done = python("-m", "benchmarks.figure", *flags, f"--output={tmp_path / 'figure.png'}")
    assert done.returncode != 0
    assert part in done.stderr
    assert "Traceback" not in done.stderr
