"""Evaluation of trained models: test-time crops, ensembles, top-1 and top-5 errors.

`flaxres.main` and `experiments` import this package; it imports every other package of `flaxres`.
"""
