import jax
import jax.numpy as jnp
import numpy as np

from flaxres.run.snapshot import Snapshot


def test_a_snapshot_keeps_the_values_of_a_donated_state():
    state = jnp.arange(3.0)
    snapshot = Snapshot({"a": state})
    jax.jit(lambda x: x + 1, donate_argnums=0)(state)
    np.testing.assert_array_equal(snapshot.fetch()["a"], [0, 1, 2])
