"""Python API: the functions that `import flaxres` offers, one module for each kind.

`flaxres.create_model` is `flaxres.api.models.create_model`, and so on; `flaxres/__init__.py` has
the list. Imported by users; imports everything else in `flaxres`.
"""
