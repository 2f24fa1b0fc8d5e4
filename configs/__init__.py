"""Experiments as ml_collections configs: one file each, with `get_config(model)`."""
