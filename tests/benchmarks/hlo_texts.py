"""HLO texts of two programs, written by hand."""

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
