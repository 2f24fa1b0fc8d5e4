"""Inference with trained models: loading a run, predictions, exports, population statistics.

`flaxres.evaluation`, `flaxres.main` and `experiments` import this package; it imports
`flaxres.training` and the packages below it.
"""
