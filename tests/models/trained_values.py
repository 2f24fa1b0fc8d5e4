"""Values of norms as after some training."""

import jax
import numpy as np


def with_trained_norms(variables):
    """Returns variables in which scales, biases and running statistics of norms are random."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if name in ("bias", "mean"):
            return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return leaf

    return jax.tree_util.tree_map_with_path(value, variables)
