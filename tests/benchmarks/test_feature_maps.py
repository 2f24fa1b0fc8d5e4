from benchmarks.feature_maps import FeatureMaps
from benchmarks.hlo import parse
from tests.benchmarks.hlo_texts import GPU

TRANSPOSE = "transpose bf16[4,8,8,16]{3,2,1,0} -> bf16[4,16,8,8]{3,2,1,0}"


def layout_change(text):
    program = parse(text)
    transposed = program.computations["transposed"]
    return FeatureMaps(program, 4).layout_change(transposed, transposed.instructions["t"])


def test_feature_maps_have_the_batch_first_and_are_no_arguments():
    body = parse(GPU).computations["body"].instructions
    feature_maps = FeatureMaps(parse(GPU), 4)
    assert feature_maps.layouts(body["batch"]) == ["NHWC"]
    assert feature_maps.layouts(body["conv"]) == ["NHWC"]  # the second result is scratch memory
    assert feature_maps.layouts(body["weights"]) == []
    # With a local batch of 3, the convolution kernel has the shape of a feature map.
    assert FeatureMaps(parse(GPU), 3).layouts(body["weights"]) == []
    assert FeatureMaps(parse(GPU), 8).layouts(body["batch"]) == []


def test_a_transpose_changes_the_layout_unless_the_memory_stays_the_same():
    assert layout_change(GPU) == TRANSPOSE
    same = "%t = bf16[4,16,8,8]{1,3,2,0}"
    assert layout_change(GPU.replace("%t = bf16[4,16,8,8]{3,2,1,0}", same)) is None
