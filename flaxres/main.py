"""Command line: train, evaluate or summarise one net.

python -m flaxres.main --config=configs/digits.py:resnet-56 --workdir=runs/resnet-56
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from flaxres import cli
from flaxres.errors import ConfigError

MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "summary"], "What to do.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; runs/<config name>/<net>-seed<seed> if not given."
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Weights to begin with: a PyTorch state dict (resnet50.pth), variables (NAME.msgpack) or a "
    "run's directory; config.init_from.",
)
NETS = flags.DEFINE_list("nets", [], "With --mode=summary: nets to compare, a line for each.")
BATCH_STATS = flags.DEFINE_enum(
    "batch_stats",
    "running",
    ["running", "population"],
    "With --mode=eval: batch norm's statistics, those kept in training or those of all training "
    "images, computed anew.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for a run of several processes; auto where JAX can find it itself.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one, from 0.")
cli.define_config("configs/cifar10.py:resnet-56")


def main() -> None:
    """Runs the mode that the flags ask for."""
    from flaxres.workdir import default_workdir

    if BATCH_STATS.value != "running" and MODE.value != "eval":
        raise ConfigError(
            f"--batch_stats={BATCH_STATS.value} is for --mode=eval, got --mode={MODE.value}"
        )
    config = cli.get_config()
    if INIT_FROM.value is not None:
        config.init_from = INIT_FROM.value
    workdir = Path(WORKDIR.value).expanduser() if WORKDIR.value else default_workdir(config)
    if MODE.value == "summary":
        from flaxres import summary

        if NETS.value:
            summary.print_comparison([cli.with_net(config, net) for net in NETS.value])
        else:
            summary.print_summary(config)
        return

    from flaxres import distributed

    distributed.initialise(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if MODE.value == "eval":
        from flaxres.evaluate import evaluate_run

        record = evaluate_run(config, workdir, batch_stats=BATCH_STATS.value)
        lines = [f"{name}: {value:.6g}" for name, value in record.items()]
    else:
        from flaxres.train import train_and_evaluate

        record = train_and_evaluate(config, workdir)
        lines = [
            f"{workdir}: training error {record['train_error']:.2f}%, "
            f"test error {record['test_error']:.2f}% after {record['step']:,} steps"
        ]
    if distributed.is_first():
        print("\n".join(lines))


if __name__ == "__main__":
    cli.run(main)
