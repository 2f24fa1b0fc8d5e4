"""Pretrained weights from files of variables and PyTorch state dicts.

Imported by `flaxres.training` and above; imports `flaxres.run` and below.
"""
