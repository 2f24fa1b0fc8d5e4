"""A shared patch: contexts may overlap, and patches of other code stay."""

import types

from flaxres.shared_patch import SharedPatch


def test_the_last_context_restores_the_attribute():
    module = types.SimpleNamespace(number=1)
    patch = SharedPatch(module, "number", 2)
    module.number = 3  # between the definition of the patch and its use
    patch.__enter__()
    patch.__enter__()
    patch.__exit__(None, None, None)
    assert (module.number, patch.previous) == (2, 3)
    patch.__exit__(None, None, None)
    assert module.number == 3


def test_a_later_patch_of_other_code_stays():
    module = types.SimpleNamespace(number=1)
    with SharedPatch(module, "number", 2):
        module.number = 4
    assert module.number == 4
