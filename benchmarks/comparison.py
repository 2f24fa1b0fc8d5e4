"""Ratios of flaxres to PyTorch, in each dtype and of the best of all dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.implementations import Implementation
from benchmarks.report import Spread

BEST = "best"  # key of the comparison across dtypes


def compare_speed(
    implementations: Sequence[Implementation], speedup: bool = False
) -> dict[str, dict[str, Any]]:
    """Compares flaxres with PyTorch's fastest mode.

    Args:
      implementations: the implementations, measured in the same rounds.
      speedup: if True, ratios are those of speeds, otherwise those of times.

    Returns:
      By dtype, and under `BEST` for the fastest of all dtypes on either side: the names of both
      implementations, 'flaxres' and 'peer', and the 'ratio' of flaxres to the peer over the rounds.
      Dtypes without PyTorch are left out.
    """
    dtypes = list(dict.fromkeys(i.dtype for i in implementations))
    groups = {dtype: [i for i in implementations if i.dtype == dtype] for dtype in dtypes}
    groups[BEST] = list(implementations)
    ratios = {}
    for name, group in groups.items():
        ours = [i for i in group if i.framework == "flaxres"]
        peers = [i for i in group if i.framework == "torch"]
        if ours and peers:
            fastest, peer = _fastest(ours), _fastest(peers)
            values = np.divide(fastest.seconds, peer.seconds)
            ratio = Spread.from_values(1 / values if speedup else values)
            ratios[name] = {"flaxres": fastest.name, "peer": peer.name, "ratio": ratio}
    return ratios


def _fastest(implementations: Sequence[Implementation]) -> Implementation:
    return min(implementations, key=lambda i: float(np.median(i.seconds)))


def memory_ratios(
    implementations: Sequence[Implementation], memory: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Compares the peak memory of flaxres with that of PyTorch's eager mode, by dtype.

    Args:
      implementations: the implementations.
      memory: by name of the implementation, peak 'host' and 'device' memory in bytes.
    """
    eager: dict[str, str] = {}
    for mode in ("eager", "graph-eager"):  # the first that was measured
        for i in implementations:
            if i.mode == mode:
                eager.setdefault(i.dtype, i.name)
    return {
        i.dtype: used_bytes(memory[i.name]) / used_bytes(memory[eager[i.dtype]])
        for i in implementations
        if i.framework == "flaxres" and i.dtype in eager
    }


def used_bytes(memory: Mapping[str, int]) -> int:
    """Returns the peak memory of the device or, on a CPU, of the process."""
    return memory["device"] or memory["host"]


def print_ratios(
    quantity: str,
    ratios: Mapping[str, Mapping[str, Any]],
    memory: Mapping[str, float],
    differences: Mapping[str, float],
) -> None:
    """Prints the comparisons, one line each.

    Args:
      quantity: what the ratios are of, such as 'Step time'.
      ratios: result of `compare_speed`.
      memory: result of `memory_ratios`.
      differences: by dtype, largest relative difference of the first losses.
    """
    for name, entry in ratios.items():
        text = f"{quantity} of {entry['flaxres']} / {entry['peer']}: {entry['ratio']}."
        if name == BEST:
            text = f"Best of both: {text}"
        if name in memory:
            text += f" Peak memory / PyTorch eager: {memory[name]:.2f}."
        if name in differences:
            text += f" The first losses differ by {differences[name]:.1e}."
        print(text)
