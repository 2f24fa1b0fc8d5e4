"""Former name of `experiments.sweeps.throughput`: python -m experiments.speed --config=FILE."""

from flaxres.experiments.sweeps.throughput import run

if __name__ == "__main__":
    run()
