"""Memory limits of processes that share a GPU."""

from __future__ import annotations

from collections.abc import Mapping

# JAX's default for the only process on a GPU (docs.jax.dev, "GPU memory allocation"). The rest is
# for what each process allocates outside of JAX's pool: CUDA's context, cuDNN, compiled kernels.
TOTAL_FRACTION = 0.75
# Fraction of a GPU's memory that a JAX process reserves. The second name is deprecated, and JAX
# accepts only one of the two (jaxlib/xla_client.py).
FRACTION_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def memory_variables(gpus: float, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that limit a process to its share of a GPU's memory.

    They also set the limit that JAX reports (`bytes_limit`), against which
    `flaxres.memory_estimate.check_memory` checks a run.

    Args:
      gpus: GPUs of the process; there is a limit only if it is between 0 and 1.
      environment: environment of the process. A fraction that the user has set takes precedence.
    """
    if not 0 < gpus < 1 or any(environment.get(name) for name in FRACTION_VARIABLES):
        return {}
    return {FRACTION_VARIABLES[0]: f"{TOTAL_FRACTION * gpus:.4g}"}
