"""Command line: train, evaluate or summarise one net.

python -m flaxres.main --config=configs/digits.py:resnet-56 --workdir=runs/resnet-56
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from flaxres import cli

MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "summary"], "What to do.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; runs/<config name>/<net>-seed<seed> if not given."
)
cli.define_config("configs/cifar10.py:resnet-56")


def main() -> None:
    """Runs the mode that the flags ask for."""
    from flaxres.workdir import default_workdir

    config = cli.get_config()
    workdir = Path(WORKDIR.value).expanduser() if WORKDIR.value else default_workdir(config)
    if MODE.value == "summary":
        from flaxres.summary import print_summary

        print_summary(config)
    elif MODE.value == "eval":
        from flaxres.evaluate import evaluate_run

        record = evaluate_run(config, workdir)
        print("\n".join(f"{name}: {value:.6g}" for name, value in record.items()))
    else:
        from flaxres.train import train_and_evaluate

        record = train_and_evaluate(config, workdir)
        print(
            f"{workdir}: training error {record['train_error']:.2f}%, "
            f"test error {record['test_error']:.2f}% after {record['step']:,} steps"
        )


if __name__ == "__main__":
    cli.run(main)
