"""Benchmarks: speed and memory, as ratios measured in interleaved rounds of one run."""
