"""Import of torchvision next to a PyTorch without CUDA.

The torchvision of PyPI belongs to PyPI's PyTorch, which has CUDA. With another build its operators
for object detection cannot be loaded, and `import torchvision` fails because it describes them. The
classification models need none of them, so they are only declared here.
"""

import importlib.util
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")


def import_torchvision():
    """Imports and returns torchvision; skips the tests if it is not installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        pytest.skip("pip install torchvision==0.28.0", allow_module_level=True)
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        descriptions = Path(spec.submodule_search_locations[0]) / "_meta_registrations.py"
        pattern = r'"torchvision::(\w+)"|register_meta\("(\w+)"'
        for names in sorted(set(re.findall(pattern, descriptions.read_text()))):
            torch.library.define(f"torchvision::{''.join(names)}", "() -> ()")
        import torchvision
    return torchvision
