import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from benchmarks.program_facts import program_facts

# A program of a GPU: two steps of a convolution and its transposed result.
GPU = """\
HloModule jit_f, input_output_alias={ {0}: (1, {}, may-alias) }

%add_numbers (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%transposed (p: bf16[4,8,8,16]) -> bf16[4,16,8,8] {
  %p = bf16[4,8,8,16]{3,2,1,0} parameter(0)
  ROOT %t = bf16[4,16,8,8]{3,2,1,0} transpose(%p), dimensions={0,3,1,2}
}

%gathered (images: u8[100,8,8,3], rows: s32[4]) -> bf16[4,8,8,3] {
  %images = u8[100,8,8,3]{3,2,1,0} parameter(0)
  %rows = s32[4]{0} parameter(1)
  %gather = u8[4,8,8,3]{3,2,1,0} gather(%images, %rows), offset_dims={1,2,3}
  ROOT %convert = bf16[4,8,8,3]{3,2,1,0} convert(%gather)
}

%body (state: (s32[], f32[3,3,3,16], u8[100,8,8,3], s32[4])) -> (s32[], f32[3,3,3,16]) {
  %state = (s32[], f32[3,3,3,16]{3,2,1,0}, u8[100,8,8,3]{3,2,1,0}, s32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %kernel = f32[3,3,3,16]{3,2,1,0} get-tuple-element(%state), index=1
  %images = u8[100,8,8,3]{3,2,1,0} get-tuple-element(%state), index=2
  %rows = s32[4]{0} get-tuple-element(%state), index=3
  %batch = bf16[4,8,8,3]{3,2,1,0} fusion(%images, %rows), kind=kLoop, calls=%gathered
  %weights = bf16[3,3,3,16]{3,2,1,0} convert(%kernel)
  %conv = (bf16[4,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%batch, %weights), custom_call_target="__cudnn$convForward"
  %maps = bf16[4,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %turned = bf16[4,16,8,8]{3,2,1,0} fusion(%maps), kind=kInput, calls=%transposed
  %start = f32[432]{0} all-reduce-start(%flat), to_apply=%add_numbers
  %done = f32[432]{0} all-reduce-done(%start)
  %flat = f32[432]{0} bitcast(%kernel)
  %updated = f32[3,3,3,16]{3,2,1,0} bitcast(%done)
  ROOT %out = (s32[], f32[3,3,3,16]{3,2,1,0}) tuple(%i, %updated)
}

%condition (state.1: (s32[])) -> pred[] {
  %state.1 = (s32[], f32[3,3,3,16]{3,2,1,0}) parameter(0)
  ROOT %less = pred[] custom-call(%state.1), custom_call_target="less"
}

ENTRY %main (images.1: u8[100,8,8,3], kernel.1: f32[3,3,3,16], rows.1: s32[4]) -> f32[3,3,3,16] {
  %images.1 = u8[100,8,8,3]{3,2,1,0} parameter(0)
  %kernel.1 = f32[3,3,3,16]{3,2,1,0} parameter(1)
  %rows.1 = s32[4]{0} parameter(2)
  %zero = s32[] constant(0)
  %copied = u8[100,8,8,3]{3,2,1,0} copy(%images.1)
  %start.1 = (s32[], f32[3,3,3,16]{3,2,1,0}) tuple(%zero, %kernel.1)
  %loop = (s32[], f32[3,3,3,16]{3,2,1,0}) while(%start.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"2"}}
  ROOT %result = f32[3,3,3,16]{3,2,1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


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


def test_a_transpose_that_keeps_the_memory_is_no_change():
    same = GPU.replace(
        "transpose(%p), dimensions={0,3,1,2}", "transpose(%p), dimensions={0,3,1,2}"
    ).replace("%t = bf16[4,16,8,8]{3,2,1,0}", "%t = bf16[4,16,8,8]{1,3,2,0}")
    assert program_facts(same, 2, 4).layout_changes == {}


def test_copies_of_the_data_set_and_donated_buffers(gpu):
    assert gpu.data_set_copies == ["copied: u8[100,8,8,3]{3,2,1,0}"]
    assert gpu.aliased == 1


def test_without_a_loop_everything_belongs_to_the_step():
    facts = program_facts(GPU, num_steps=1, local_batch=4)
    assert facts.kernels == 2 * 6 + 1
    assert facts.dispatch_kernels == 0


# A program of a TPU: an update in place in its fast memory (space 1), and a loop in a step.
TPU = """\
HloModule jit_f

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %state = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %y = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} negate(%x), backend_config={"estimated_cycles":"1000"}
  ROOT %out = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%i, %y)
}

%condition (state.1: (s32[], bf16[8,128])) -> pred[] {
  %state.1 = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %limit = s32[]{:T(128)} constant(50)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: bf16[8,100]) -> bf16[8,128] {
  %x.1 = bf16[8,100]{1,0:T(8,128)(2,1)} parameter(0)
  %copy = (bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, bf16[8,100]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x.1)
  %ready = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%zero, %ready)
  %loop = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) while(%start), condition=%condition, body=%body
  %z = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%loop), index=1
  %dot = f32[8,8]{1,0:T(8,128)} convolution(%z, %z), dim_labels=bf_oi->bf, backend_config={"estimated_cycles":"7000"}
  %sent = (f32[8,8], u32[], token[]) send(%dot, %zero), channel_id=1, is_host_transfer=true
  ROOT %result = bf16[8,128]{1,0:T(8,128)(2,1)} copy(%z), backend_config={"estimated_cycles":"100"}
}
"""  # noqa: E501


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
