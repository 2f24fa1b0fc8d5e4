"""Evaluation of trained models: test-time crops, ensembles, top-1 and top-5 errors.

Imported by `flaxres.main` and by `experiments`; imports every package except those two.
"""
