from benchmarks.hlo import parse
from benchmarks.memory_traffic import instruction_bytes
from tests.benchmarks.hlo_texts import GPU, TPU

IMAGE, KERNEL, MAPS = 4 * 8 * 8 * 3, 3 * 3 * 3 * 16, 4 * 8 * 8 * 16  # elements


def bytes_of(text, computation, name, uses_tiles=False):
    program = parse(text)
    instructions = program.computations[computation].instructions
    return instruction_bytes(
        program, program.computations[computation], instructions[name], uses_tiles
    )


def test_a_fusion_reads_only_the_slices_that_it_uses():
    # uint8 images are gathered by int32 rows and written as bfloat16.
    assert bytes_of(GPU, "body", "batch") == IMAGE + 4 * 4 + 2 * IMAGE
    assert bytes_of(GPU, "body", "turned") == 2 * MAPS + 2 * MAPS


def test_other_instructions_read_their_operands_and_write_their_results():
    assert bytes_of(GPU, "body", "weights") == (4 + 2) * KERNEL
    assert bytes_of(GPU, "body", "conv") == 2 * IMAGE + 2 * KERNEL + 2 * MAPS


def test_an_update_in_place_moves_only_the_update():
    text = """\
HloModule jit_f

%update (p: f32[100,8], q: f32[1,8], i: s32[]) -> f32[100,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %q = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %out = f32[100,8]{1,0} dynamic-update-slice(%p, %q, %i, %i)
}

ENTRY %main (x: f32[100,8], y: f32[1,8], n: s32[]) -> f32[100,8] {
  %x = f32[100,8]{1,0} parameter(0)
  %y = f32[1,8]{1,0} parameter(1)
  %n = s32[] parameter(2)
  ROOT %fused = f32[100,8]{1,0} fusion(%x, %y, %n), kind=kLoop, calls=%update
}
"""
    assert bytes_of(text, "update", "out") == 2 * 4 * 8
    assert bytes_of(text, "main", "fused") == 2 * 4 * 8 + 4  # and the index


def test_only_the_main_memory_of_a_tpu_counts():
    tile = 8 * 128 * 2
    assert bytes_of(TPU, "main", "copy", uses_tiles=True) == tile
    assert bytes_of(TPU, "body", "y", uses_tiles=True) == 0
    assert bytes_of(TPU, "body", "y") == 2 * tile
