"""Facts that every program must have, and the numbers that are derived on paper."""

from benchmarks.named_devices import parse_name
from tests.accelerators.programs import PARAMS

CPU_KERNEL = "flaxres_"  # start of the custom calls of flaxres.cpu
NVIDIA_LIBRARIES = ("__cudnn$", "__cublas$", "__triton")


def check_every_program(program, facts):
    """Checks what holds for each program on each device."""
    # Nothing runs on the CPU: neither its kernels nor a callback.
    calls = facts["custom_calls"]
    assert [call for call in calls if call.startswith(CPU_KERNEL)] == []
    assert facts["host_transfers"] == {}
    if not program.is_tpu:
        assert [call for call in calls if not call.startswith(NVIDIA_LIBRARIES)] == []
    # Training reuses the buffer of each array of the train state.
    assert facts["aliased"] == facts["donated"]
    assert (facts["donated"] > 0) == (program.step == "train")
    assert facts["data_set_copies"] == []
    kind, _ = parse_name(program.devices)
    assert 0 < facts["memory"]["peak"] < kind.memory_bytes
    assert facts["devices"] == program.num_devices


def check_layouts(program, facts):
    """Checks that no feature map is copied into another layout; on a GPU all are NHWC."""
    assert facts["layouts"] != {}
    assert facts["layout_changes"] == {}
    if not program.is_tpu:  # a TPU's compiler chooses layouts, mostly with the batch in the lanes
        assert set(facts["layouts"]) == {"NHWC"}


def check_products(program, facts):
    """Checks number and dtypes of the products of a train step of a CIFAR ResNet.

    Each of c convolutions has a product in the forward pass and two for its gradients, except that
    the images need no gradient: 3c - 1. The dense layer has three, in float32 in every run.
    """
    convolutions = 3 * program.num_convolutions - 1
    dtype = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    name = f"{dtype} x {dtype} -> {dtype}"
    # XLA writes the products of matrices as convolutions on a TPU.
    dense = "convolution" if program.is_tpu else "dot"
    expected = {f"convolution {name}": convolutions}
    dense_name = f"{dense} f32 x f32 -> f32"
    expected[dense_name] = expected.get(dense_name, 0) + 3
    assert facts["products"] == expected


def check_train_step(program, facts):
    """Checks the facts of a train step of a CIFAR ResNet that hold on each device."""
    check_every_program(program, facts)
    check_layouts(program, facts)
    check_products(program, facts)
    check_all_reduces(program, facts)


def expected_all_reduces(program):
    """Returns the number of all-reduces of a train step.

    XLA combines all-reduces of one dtype that do not wait for one another. Those of the gradients,
    the loss, the misclassified images and the number of images become one.

    With bn_scope='global' each norm adds two, because the layers wait for one another: the mean
    with the mean of squares in the forward pass, and their gradients in the backward pass.

    With bn_scope='device' the running statistics are pooled after the forward pass. Their means
    travel with the gradients; the variance between these means waits for them and adds one.
    """
    if program.num_devices == 1:
        return 0
    return 1 + (2 * program.num_norms if program.bn_scope == "global" else 1)


def expected_all_reduced_elements(program):
    """Returns the number of elements of the all-reduces of a train step.

    These are the gradients, the loss, the misclassified images and the number of images. The norms
    add two all-reduces of two numbers a channel in bn_scope='global'. In bn_scope='device' they add
    two running statistics a channel, twice. Thus the scopes have equally many.
    """
    if program.num_devices == 1:
        return 0
    # A third of the norms, of 2n each and one of the first convolution, has each width.
    blocks = (program.num_norms - 1) // 3
    channels = (blocks + 1) * 16 + blocks * 32 + blocks * 64
    metrics = 1 + 1 + 1
    # A TPU's compiler moves the number of images, which is constant, out of the loop of the steps.
    metrics -= program.is_tpu
    return PARAMS[program.model] + metrics + 4 * channels


def check_all_reduces(program, facts):
    """Checks the collectives of a train step of a CIFAR ResNet."""
    assert facts["all_reduces"] == expected_all_reduces(program)
    assert facts["all_reduced_elements"] == expected_all_reduced_elements(program)
    assert facts["other_collectives"] == {}


def feature_map_bytes(program, batch_size=128):
    """Returns the bytes of the outputs of all convolutions of a CIFAR ResNet on one device."""
    blocks = (program.num_convolutions - 1) // 3
    pixels = (blocks + 1) * 32**2 * 16 + blocks * 16**2 * 32 + blocks * 8**2 * 64
    itemsize = {"float32": 4, "bfloat16": 2}[program.dtype]
    return itemsize * pixels * batch_size // program.num_devices


def check_bytes(program, facts):
    """Checks the bytes of a train step on one GPU against its passes over the feature maps.

    Per convolution, the forward pass writes its output, reads it for the statistics, and reads,
    normalizes and writes it for the next convolution, which reads it: 5. The backward pass of a
    norm reads the output and its gradient for two sums, and again to write the gradient of the
    output: 5. The gradients of the next convolution read its input and twice its output gradient,
    and write the gradient of the input: 4. These are 14 passes. Additions of shortcuts take three
    for every second convolution, forward and backward, and some kernels read an array twice.
    """
    passes = facts["bytes"] / feature_map_bytes(program)
    assert 14 <= passes <= 20
