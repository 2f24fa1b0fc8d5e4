import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from benchmarks.program_facts import program_facts
from tests.benchmarks.hlo_texts import GPU, TPU


@pytest.fixture(scope="module")
def gpu():
    return program_facts(GPU, num_steps=2, local_batch=4)


def test_kernels_are_counted_in_steps_and_outside(gpu):
    # The batch, the cast, the convolution, the transpose, the all-reduce and the condition.
    assert gpu.kernels == 6
    assert gpu.dispatch_kernels == 1  # the copy


def test_bytes(gpu):
    image, kernel = 4 * 8 * 8 * 3, 432
    maps = 4 * 8 * 8 * 16
    steps = {
        "batch": image + 4 * 4 + 2 * image,  # only the four gathered images are read
        "cast": (4 + 2) * kernel,
        "convolution": 2 * image + 2 * kernel + 2 * maps,
        "transpose": 2 * 2 * maps,
        "all-reduce": 2 * 4 * kernel,
        "condition": 4 + 4 * kernel + 1,
    }
    assert gpu.bytes == sum(steps.values())
    assert gpu.dispatch_bytes == 2 * 100 * 8 * 8 * 3


def test_products_collectives_and_calls(gpu):
    assert gpu.products == {"convolution bf16 x bf16 -> bf16": 1}
    assert (gpu.all_reduces, gpu.all_reduced_elements) == (1, 432)
    assert gpu.dispatch_all_reduces == 0
    assert gpu.other_collectives == {}
    assert gpu.custom_calls == {"__cudnn$convForward": 1, "less": 1}
    assert gpu.host_transfers == {}


def test_layouts_and_their_changes(gpu):
    assert gpu.layouts == {"NHWC": 3}
    assert gpu.layout_changes == {"transpose bf16[4,8,8,16]{3,2,1,0} -> bf16[4,16,8,8]{3,2,1,0}": 1}


def test_copies_of_the_data_set_and_donated_buffers(gpu):
    assert gpu.data_set_copies == ["copied: u8[100,8,8,3]{3,2,1,0}"]
    assert gpu.aliased == 1


def test_without_a_loop_everything_belongs_to_the_step():
    facts = program_facts(GPU, num_steps=1, local_batch=4)
    assert facts.kernels == 2 * 6 + 1
    assert facts.dispatch_kernels == 0


def test_cycles_and_bytes_of_a_tpu():
    facts = program_facts(TPU)
    assert facts.megacycles == pytest.approx((50 * 1000 + 7000 + 100) / 1e6)
    assert facts.loop_megacycles == pytest.approx(50 * 1000 / 1e6)
    assert facts.products == {"convolution bf16 x bf16 -> f32": 1}
    assert facts.host_transfers == {"send": 1}
    # The argument is padded to a tile of 8 x 128, as the product is, which is sent. What stays in
    # the fast memory does not count. The loop compares its counter 50 times.
    tile, product = 8 * 128 * 2, 8 * 128 * 4
    sent = 8 * 8 * 4 + 4 + product + 4
    assert facts.bytes == tile + 50 * (4 + 4 + 1) + product + sent + tile


def test_a_program_of_this_machine():
    num_steps = 3

    def f(w, x):
        def step(w, _):
            return w - jnp.tanh(x @ w), None

        return jax.lax.scan(step, w, None, num_steps)[0]

    w, x = jnp.ones((256, 256)), jnp.ones((256, 256))
    text = jax.jit(f, donate_argnums=0).lower(w, x).compile().as_text()
    facts = program_facts(text, num_steps)
    assert sum(facts.products.values()) + facts.custom_calls.get("__onednn$matmul", 0) == 1
    assert facts.aliased == 1
    assert facts.all_reduces == 0
    # A step reads w and x and writes the product; reads the product and w, and writes w.
    assert 3 * w.nbytes <= facts.bytes <= 8 * w.nbytes


def test_all_reduces_of_virtual_devices():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def f(x):
        return jax.lax.psum(x, "data")

    specs = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec()}
    mapped = jax.jit(jax.shard_map(f, mesh=mesh, **specs))
    facts = program_facts(mapped.lower(jnp.ones((8, 5))).compile().as_text())
    assert (facts.all_reduces, facts.all_reduced_elements) == (1, 10)


def test_callbacks_are_found():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), np.float32), x)

    facts = program_facts(jax.jit(f).lower(jnp.ones(3)).compile().as_text())
    assert sum(facts.host_transfers.values()) == 1
    assert all("callback" in target for target in facts.host_transfers)
