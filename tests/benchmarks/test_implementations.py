"""The check that flaxres and PyTorch have the same losses, each in the dtype that is measured."""

import pytest

from flaxres.errors import UserError

LOSSES = [2.5, 2.0, 1.5]


class Worker:
    def __init__(self, answer):
        self.answer, self.closed = answer, False

    def ask(self, check):
        assert check["path"]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self):
        self.closed = True


@pytest.fixture
def implementations(isolated_flags):
    from benchmarks import implementations

    return implementations


def make(module, dtype, answers):
    ours = Worker({"losses": LOSSES, "learning_rate": 1e-4})
    made = [module.Implementation("flaxres", dtype, "", ours)]
    return made + [
        module.Implementation("torch", dtype, mode, Worker(answer))
        for mode, answer in answers.items()
    ]


def test_modes_with_other_losses_or_another_dtype_are_left_out(implementations, capsys):
    made = make(
        implementations,
        "float32",
        {
            "eager": {"losses": [2.501, 2.0, 1.5], "bfloat16": False},
            "compiled": {"losses": [2.6, 2.0, 1.5], "bfloat16": False},
            "graph-eager": {"losses": LOSSES, "bfloat16": True},
            "graph-compiled": RuntimeError("CUDA error: an illegal memory access"),
        },
    )
    failed = made[2:]
    left_out = {}
    differences = implementations.compare_losses(made, left_out)
    assert differences == {"float32": pytest.approx(4e-4)}
    assert [i.mode for i in made] == ["", "eager"]
    assert left_out == {
        "torch float32 compiled": f"losses differ: [2.6, 2.0, 1.5], of flaxres {LOSSES}",
        "torch float32 graph-eager": "it computes in bfloat16 instead of float32",
        "torch float32 graph-compiled": "CUDA error: an illegal memory access",
    }
    assert [i.worker.closed for i in (*made, *failed)] == [False, False, True, True, True]
    assert "Left out torch float32 graph-eager: it computes in bfloat16" in capsys.readouterr().err


def test_bfloat16_is_compared_with_its_own_tolerance(implementations):
    made = make(
        implementations, "bfloat16", {"eager": {"losses": [2.55, 2.1, 1.6], "bfloat16": True}}
    )
    assert implementations.compare_losses(made, {}) == {"bfloat16": pytest.approx(0.02)}


def test_no_mode_has_the_losses_of_flaxres(implementations):
    made = make(
        implementations, "float32", {"eager": {"losses": [9.0, 9.0, 9.0], "bfloat16": False}}
    )
    with pytest.raises(UserError, match="no mode of PyTorch passed the check; torch float32 eager"):
        implementations.compare_losses(made, {})
