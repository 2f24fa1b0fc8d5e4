"""Model families, their building blocks and norms, and `create_model`, which builds a model.

Imported by `flaxres.config` and above; imports only `flaxres.cpu`, `flaxres.errors` and
`flaxres.field_checks`.
"""

from flaxres.models.create_model import create_model

__all__ = ["create_model"]
