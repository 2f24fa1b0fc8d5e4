from benchmarks.hlo import Array, parse, parse_arrays

LOOP = """\
HloModule jit_f, input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, must-alias) }

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %y = f32[8]{0} custom-call(%x), custom_call_target="double", backend_config={"a(b":"){"}
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %y)
}

%condition (state.1: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[8]) -> (s32[], f32[8]) {
  %x.1 = f32[8]{0} parameter(0), metadata={op_name="x (the argument)"}
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %x.1)
  ROOT %loop = (s32[], /*index=1*/f32[8]{0}) while(%start), condition=%condition, body=%body
}
"""


def test_instructions_and_the_computations_that_they_call():
    program = parse(LOOP)
    assert program.entry == "main"
    assert list(program.computations) == ["body", "condition", "main"]
    assert program.num_aliased == 2
    main, body = program.computations["main"], program.computations["body"]
    loop = main.instructions[main.root]
    assert loop.opcode == "while"
    assert loop.operands == ("start",)
    assert loop.called == {"condition": ["condition"], "body": ["body"]}
    assert loop.arrays == (Array("s32", ()), Array("f32", (8,), (0,)))
    assert body.instructions["y"].target == "double"
    assert [user.name for user in body.users["i"]] == ["next"]
    assert [operand.name for operand in body.operands(body.instructions["y"])] == ["x"]
    assert program.arguments == [Array("f32", (8,), (0,))]


def test_iterations_of_a_loop_come_from_its_annotation_or_its_condition():
    program = parse(LOOP)
    assert program.trip_count(program.computations["main"].instructions["loop"]) == 5
    annotated = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    program = parse(LOOP.replace("body=%body", annotated))
    assert program.trip_count(program.computations["main"].instructions["loop"]) == 7


def test_operands_with_types():
    text = LOOP.replace("add(%i, %one)", "add(s32[] %i, s32[] %one)")
    assert parse(text).computations["body"].instructions["next"].operands == ("i", "one")


def test_arrays():
    arrays = parse_arrays("(bf16[16,40,3]{1,2,0:T(8,128)(2,1)S(1)}, pred[], u8[0]{0}, f32[<=9])")
    assert arrays[0] == Array("bf16", (16, 40, 3), (1, 2, 0), (8, 128), 1)
    assert arrays[0].major_to_minor == (0, 2, 1)
    assert str(arrays[0]) == "bf16[16,40,3]{1,2,0}"
    assert [array.size for array in arrays] == [1920, 1, 0, 9]
    # Tiles of 8 x 128: 16 times one tile, because 3 and 40 are padded to 8 and 128.
    assert arrays[0].nbytes == 16 * 8 * 128 * 2
    assert [array.nbytes for array in arrays[1:]] == [1, 0, 36]


def test_a_tile_with_more_dimensions_than_the_array():
    assert Array("f32", (10,), (0,), (8, 128)).nbytes == 8 * 128 * 4


def test_bytes_of_small_dtypes():
    assert Array("s4", (6,)).nbytes == 3
    assert Array("f8e4m3fn", (6,)).nbytes == 6
    assert Array("token", ()).nbytes == 0
