"""Facts of a step compiled for TPUs or GPUs, which this machine need not have.

python -m benchmarks.programs --config=configs/cifar10.py:resnet-20 --devices=v5e:8
python -m benchmarks.programs --config=configs/cifar10.py:resnet-20 --devices=h100:1 --steps=100

Compiles the step that `flaxres.main` would run on these devices and reads the compiled program:
kernels, bytes, XLA's estimate of cycles (TPUs), all-reduces, memory, layouts, dtypes of products.
Nothing is executed. The wheels in requirements-accelerators.txt contain the compilers; install them
in an environment of their own (`make test-accelerators` creates .venv/accelerators).
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from benchmarks import named_devices
from benchmarks.blank_dataset import blank_dataset
from benchmarks.program_facts import program_facts
from benchmarks.report import print_table, write_json, write_text
from flaxres import cli
from flaxres.errors import ConfigError

if TYPE_CHECKING:
    import jax

    from flaxres.data import Dataset, StreamedDataset
    from flaxres.training.compiled_steps import CompiledSteps
    from flaxres.training.steps import DeviceData

DEVICES = flags.DEFINE_string(
    "devices",
    None,
    "Kind and number of the devices, such as v5e:8. Kinds, with the largest numbers: "
    f"{', '.join(f'{name}:{kind.max_devices}' for name, kind in named_devices.KINDS.items())}.",
)
STEP = flags.DEFINE_enum(
    "step", "train", ["train", "evaluation", "layers"], "Step to compile; layers: layer statistics."
)
STEPS = flags.DEFINE_integer(
    "steps",
    2,
    "Training steps in a dispatch; 0 for the number that flaxres.main uses.",
    lower_bound=0,
)
FAST = flags.DEFINE_bool(
    "fast",
    False,
    "Compile with the least optimization (a third of the time for a TPU). Kernels, bytes, cycles "
    "and memory then differ from a real run.",
)
IMAGES = flags.DEFINE_integer(
    "images", None, "Images of the training split (default: those of the data set).", lower_bound=1
)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. v5e.json (default: print it)."
)
HLO = flags.DEFINE_string("hlo", None, "File for the HLO text of the program, such as v5e.txt.")

LEAST_EFFORT = -1.0  # XLA's lowest optimization effort; its default is 0
# Rows of the table for the entries of `memory`.
MEMORY_LABELS = {
    "peak": "peak memory, MB",
    "arguments": "arguments, MB",
    "results": "other results, MB",
    "aliased": "results in buffers of arguments, MB",
    "temporaries": "temporaries, MB",
    "code": "size of the code, MB",
}


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A step that is lowered for devices.

    Attributes:
      lowered: the lowered function.
      num_steps: number of training steps or evaluated batches in the program.
      batch_size: images of a step on all devices.
      num_donated: number of arrays whose buffers the results may reuse.
    """

    lowered: jax.stages.Lowered
    num_steps: int
    batch_size: int
    num_donated: int = 0


def lower_step(
    compiled_steps: CompiledSteps,
    dataset: Dataset | StreamedDataset,
    config: ConfigDict,
    step: str,
    num_steps: int,
) -> LoweredStep:
    """Lowers a step for the devices.

    Args:
      compiled_steps: the steps of the config.
      dataset: data set of the config.
      config: config of the run.
      step: 'train', 'evaluation' or 'layers'.
      num_steps: training steps in a dispatch; 0 for the default of the config.
    """
    import jax

    from flaxres.data import StreamedDataset

    state, devices = compiled_steps.state_structs(), compiled_steps.devices

    def arrays(num_batches: int, batch_size: int) -> DeviceData:
        if isinstance(dataset, StreamedDataset):
            return compiled_steps.batch_structs(num_batches, batch_size // devices.process_shard[1])
        return compiled_steps.split_structs(len(dataset.train))

    if step == "evaluation":
        rows = compiled_steps.evaluation_rows(len(dataset.train))[0]
        if isinstance(dataset, StreamedDataset):  # one batch in a dispatch on each device
            rows = rows[:1]
        lowered = compiled_steps.lower_evaluation(state, arrays(1, rows.shape[1]), rows)
        return LoweredStep(lowered, *rows.shape)
    if step == "layers":
        lowered = compiled_steps.lower_layer_statistics(state, arrays(1, config.batch_size))
        return LoweredStep(lowered, 1, config.batch_size)
    num_steps = num_steps or compiled_steps.steps_per_dispatch
    lowered = compiled_steps.lower_train_steps(
        state, arrays(num_steps, config.batch_size), num_steps
    )
    return LoweredStep(lowered, num_steps, config.batch_size, len(jax.tree.leaves(state)))


def compile_program(
    config: ConfigDict,
    devices: list[jax.Device],
    step: str = "train",
    num_steps: int = 0,
    num_images: int | None = None,
    fast: bool = False,
) -> tuple[dict[str, Any], str]:
    """Compiles a step for devices and returns its facts.

    Args:
      config: config of the run.
      devices: devices to compile for.
      step: 'train', 'evaluation' or 'layers'.
      num_steps: training steps in a dispatch; 0 for the default of the config.
      num_images: images of the training split, or None for those of the data set.
      fast: if True, XLA compiles with the least optimization.

    Returns:
      The facts by name, and the HLO text of the program.

    Raises:
      ConfigError: the config cannot run on these devices.
    """
    import jax

    from flaxres.parallel.sharding import Devices
    from flaxres.training.compiled_steps import CompiledSteps

    jax.config.update("jax_enable_compilation_cache", False)  # XLA cannot read such programs back
    jax.config.update("jax_exec_time_optimization_effort", LEAST_EFFORT if fast else 0.0)
    dataset = blank_dataset(config, num_images)
    mesh = Devices(devices, config.parallelism)
    if config.num_devices not in (0, len(devices)):
        raise ConfigError(
            f"num_devices must be 0 or the number of devices in --devices, {len(devices)}, got "
            f"{config.num_devices}"
        )
    if not mesh.can_lower_shapes:
        raise ConfigError(
            "parallelism must be jit for devices of several hosts: pmap is lowered with arrays on "
            f"the devices, and this machine does not have them; got {config.parallelism!r}"
        )
    compiled_steps = CompiledSteps(config, dataset, mesh)
    lowered_step = lower_step(compiled_steps, dataset, config, step, num_steps)
    local_batch = lowered_step.batch_size // len(devices)
    start = time.process_time()
    compiled = lowered_step.lowered.compile()
    seconds = time.process_time() - start
    text = compiled.as_text()
    assert text is not None
    facts = program_facts(text, lowered_step.num_steps, local_batch)
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "steps": lowered_step.num_steps,
        "images_on_a_device": local_batch,
        **dataclasses.asdict(facts),
        "donated": lowered_step.num_donated,
        "memory": memory(compiled),
        "compilation_cpu_seconds": seconds,
        "jax": jax.__version__,
    }, text


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the memory that a program needs on one device.

    Returns:
      'arguments', 'results' besides those in donated buffers, 'aliased', 'temporaries', 'code', and
      'peak', the sum of all except 'aliased' and 'code'.
    """
    analysis = compiled.memory_analysis()
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return {
        "peak": analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes,
        "arguments": analysis.argument_size_in_bytes,
        "results": results,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }


def table_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the rows of the table."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if value == int(value) or value >= 1_000 else f"{value:,.2f}"

    def counts(values: dict[str, float]) -> str:
        return "\n".join(f"{number(count)} {name}" for name, count in values.items()) or "none"

    rows = [
        ("hosts", number(facts["hosts"])),
        ("images on a device", number(facts["images_on_a_device"])),
        ("kernels a step", number(facts["kernels"])),
        ("MB read and written a step", number(facts["bytes"] / 1e6)),
    ]
    if facts["megacycles"]:
        rows += [
            ("Mcycles a step (XLA's estimate)", number(facts["megacycles"])),
            ("Mcycles in loops inside a step", number(facts["loop_megacycles"])),
            ("Mcycles of a dispatch outside its steps", number(facts["dispatch_megacycles"])),
        ]
    rows += [
        ("kernels of a dispatch outside its steps", number(facts["dispatch_kernels"])),
        ("MB of a dispatch outside its steps", number(facts["dispatch_bytes"] / 1e6)),
        ("all-reduces a step", number(facts["all_reduces"])),
        ("elements of the all-reduces", number(facts["all_reduced_elements"])),
        ("all-reduces of a dispatch outside its steps", number(facts["dispatch_all_reduces"])),
        ("other collectives a step", counts(facts["other_collectives"])),
    ]
    rows += [(MEMORY_LABELS[name], number(size / 1e6)) for name, size in facts["memory"].items()]
    return [
        *rows,
        ("donated arrays", number(facts["donated"])),
        ("results in the buffer of an argument", number(facts["aliased"])),
        ("copies of the data set", "\n".join(facts["data_set_copies"]) or "none"),
        ("layouts of feature maps", counts(facts["layouts"])),
        ("copies, transposes of feature maps", number(sum(facts["layout_changes"].values()))),
        ("products a step", counts(facts["products"])),
        ("custom calls", counts(facts["custom_calls"])),
        ("host transfers", counts(facts["host_transfers"])),
    ]


def compile_from_flags() -> tuple[dict[str, Any], str]:
    """Compiles the program of the flags; returns its facts and its HLO text.

    Raises:
      ConfigError: the flags or the config are wrong.
      UserError: the compiler of the devices is not installed.
    """
    from flaxres.config import check_config

    if not DEVICES.value:
        raise ConfigError("--devices is missing; give it a kind and a number, such as v5e:8")
    config = cli.get_config()
    check_config(config)
    devices = named_devices.named_devices(DEVICES.value)
    facts, text = compile_program(
        config, devices, STEP.value, STEPS.value, IMAGES.value, FAST.value
    )
    given = {"name": DEVICES.value, "step": STEP.value, "fast": FAST.value}
    return {**given, **facts, "config": config.to_dict()}, text


def main() -> None:
    """Compiles the program of the flags, prints its facts and writes them."""
    with named_devices.quiet_compilers():
        facts, text = compile_from_flags()
    if HLO.value:
        write_text(HLO.value, text)
    config = facts["config"]
    model = f"{config['model']['name']}-{config['model']['depth']}"
    title = f"{model}, {config['dtype']}, {facts['name']}, {facts['step']}, {facts['steps']} steps"
    print_table(title, ("", "value"), table_rows(facts))
    write_json(JSON.value, facts)


if __name__ == "__main__":
    named_devices.prepare_jax()
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main, trains=False)
