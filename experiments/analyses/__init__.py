"""What trained nets are like inside: one analysis a file, run by `experiments.analyze`."""
