"""Trained models at work: loading a run, predictions, exports, population statistics.

Imported by `flaxres.evaluation` and above; imports `flaxres.training` and below.
"""
