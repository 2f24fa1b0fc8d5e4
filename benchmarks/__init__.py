"""Timings: ratios measured in one interleaved run."""
