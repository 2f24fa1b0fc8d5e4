import types

import pytest

MIB = 2**20


def implementation(framework, dtype, mode, *seconds):
    return types.SimpleNamespace(
        name=f"{framework} {dtype} {mode}".strip(),
        framework=framework,
        dtype=dtype,
        mode=mode,
        seconds=list(seconds),
    )


IMPLEMENTATIONS = [
    implementation("flaxres", "float32", "", 1.0, 2.0, 3.0),
    implementation("torch", "float32", "eager", 4.0, 4.0, 4.0),
    implementation("torch", "float32", "compiled", 5.0, 2.0, 5.0),
    implementation("flaxres", "bfloat16", "", 2.0, 4.0, 2.5),
    implementation("torch", "bfloat16", "eager", 2.0, 2.0, 2.0),
]


@pytest.mark.usefixtures("isolated_flags")
def test_each_dtype_is_compared_with_the_fastest_mode_and_the_best_with_the_best():
    from benchmarks.comparison import compare_speed

    times = compare_speed(IMPLEMENTATIONS)
    assert {name: (e["flaxres"], e["peer"], e["ratio"].median) for name, e in times.items()} == {
        "float32": ("flaxres float32", "torch float32 eager", 0.5),
        "bfloat16": ("flaxres bfloat16", "torch bfloat16 eager", 1.25),
        "best": ("flaxres float32", "torch bfloat16 eager", 1.0),
    }
    speedups = compare_speed(IMPLEMENTATIONS, speedup=True)
    assert speedups["float32"]["ratio"].median == 2.0
    assert compare_speed(IMPLEMENTATIONS[:1]) == {}


@pytest.mark.usefixtures("isolated_flags")
def test_memory_is_compared_with_eager_mode():
    from benchmarks.comparison import memory_ratios

    host = {i.name: 100 * MIB for i in IMPLEMENTATIONS} | {"torch bfloat16 eager": 50 * MIB}
    memory = {name: {"host": size, "device": 0} for name, size in host.items()}
    assert memory_ratios(IMPLEMENTATIONS, memory) == {"float32": 1.0, "bfloat16": 2.0}
    memory["flaxres float32"]["device"] = memory["torch float32 eager"]["device"] = MIB
    memory["flaxres float32"]["device"] = 3 * MIB
    assert memory_ratios(IMPLEMENTATIONS[:3], memory) == {"float32": 3.0}
    graphs = [implementation("torch", "float32", "graph-eager", 1.0)]
    memory["torch float32 graph-eager"] = {"host": 0, "device": 6 * MIB}
    assert memory_ratios([*IMPLEMENTATIONS[:3], *graphs], memory) == {"float32": 3.0}
    assert memory_ratios([*IMPLEMENTATIONS[:1], *graphs], memory) == {"float32": 0.5}
