"""Train steps compiled for a TPU and for GPUs: a few, then those of most combinations."""

import pytest

from tests.accelerators import checks
from tests.accelerators.programs import Program, facts, parameters, run

# Part of `make test` where the compilers are installed: half a minute of one core.
FEW = [Program("v5e:8"), Program("h100:8")]
# `make test-accelerators`: with FEW, each scope, dtype and parallelism on TPUs and on GPUs.
SOME = [
    Program("v5e:1"),
    Program("v5e:8", dtype="float32", bn_scope="device", parallelism="pmap"),
    Program("h100:1"),
    Program("h100:8", dtype="float32", bn_scope="device", parallelism="pmap"),
    Program("h100:1", "resnet-20", dtype="float32"),
]
# `make test-accelerators-all`.
ALL = [
    Program(devices, model, dtype, bn_scope, parallelism)
    for devices in ("v5e:1", "v5e:8", "h100:1", "h100:8")
    for model in ("resnet-8", "resnet-20", "resnet-56")
    for dtype in ("float32", "bfloat16")
    for bn_scope in (("global", "device") if devices.endswith("8") else ("global",))
    for parallelism in ("jit", "pmap")
]
OTHER_DEVICES = ("v4:1", "v5p:4", "v6e:1", "v5e:16", "h100:16")  # the last two have several hosts
ALL += [Program(devices) for devices in OTHER_DEVICES]


def check(program):
    found = facts(program)
    checks.check_train_step(program, found)
    if not program.is_tpu and program.num_devices == 1:  # there feature maps exceed parameters
        checks.check_bytes(program, found)


@pytest.mark.parametrize("program", parameters(FEW))
def test_few_train_steps(program):
    check(program)


@pytest.mark.accelerators
@pytest.mark.parametrize("program", parameters(SOME))
def test_some_train_steps(program):
    check(program)


@pytest.mark.accelerators
@pytest.mark.parametrize("program", parameters([Program("h100:16", parallelism="pmap")]))
def test_pmap_on_several_hosts_is_refused(program):
    outcome = run(program)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: parallelism must be jit")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.accelerators_all
@pytest.mark.parametrize("program", parameters(p for p in ALL if p not in FEW + SOME))
def test_all_train_steps(program):
    check(program)
