"""Model families, their building blocks and norms, and `create_model`, which builds a model.

Imported by `flaxres.config` and above; imports only `flaxres.cpu`, `flaxres.errors` and
`flaxres.field_checks`.
"""

from typing import Any

__all__ = ["create_model"]


def __getattr__(name: str) -> Any:
    """Imports `create_model` at its first use, because it imports JAX; `fields` does not."""
    if name != "create_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flaxres.models.build import create_model

    globals()[name] = create_model
    return create_model
