"""Input pipelines: the images of each step, from splits on the devices or streamed to them.

`pipeline.next(step, num_steps)` returns `(arrays, rows)`, the inputs of a compiled step besides the
train state. `ResidentPipeline` returns the whole training split and the indices of the images in
it. `flaxres.training.stream_pipeline.StreamPipeline` returns decoded images of these steps only,
sharded over the devices, and indices into them.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from flaxres.data import Dataset, StreamedDataset
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.metrics import MetricSums
from flaxres.training.steps import StepInputs
from flaxres.training.stream_pipeline import StreamPipeline
from flaxres.training.train_state import TrainState
from flaxres.training.weight_average import evaluated_states


def make_input_pipeline(
    config: ConfigDict, compiled_steps: CompiledSteps, dataset: Dataset | StreamedDataset
) -> ResidentPipeline | StreamPipeline:
    """Returns the input pipeline for a data set.

    Args:
      config: config of the run.
      compiled_steps: step functions of the run.
      dataset: the data set, loaded or streamed.

    Raises:
      DatasetError: the mean image of a streamed data set cannot be computed.
    """
    if isinstance(dataset, Dataset):
        return ResidentPipeline(compiled_steps, dataset)
    return StreamPipeline(config, compiled_steps, dataset)


class ResidentPipeline:
    """Keeps all splits on the devices.

    Attributes:
      splits: names of the splits that are evaluated.
    """

    def __init__(self, compiled_steps: CompiledSteps, dataset: Dataset):
        """Puts the splits on the devices."""
        self._compiled_steps = compiled_steps
        self._train = compiled_steps.put(dataset.train)
        self._evaluated = {"test": compiled_steps.put(dataset.test)}
        if dataset.validation is not None:
            self._evaluated["validation"] = compiled_steps.put(dataset.validation)
        self.splits = tuple(self._evaluated)

    def start(self, step: int, max_steps: int) -> None:
        """Does nothing."""

    def is_ready(self) -> bool:
        """Returns True: `next` never waits."""
        return True

    def next(self, step: int, num_steps: int) -> StepInputs:
        """Returns the inputs of `num_steps` steps, starting at `step`."""
        return self._train, self._compiled_steps.indices(step, num_steps)

    def batch_at(self, step: int) -> StepInputs:
        """Returns the inputs of the step after `step`, in any order."""
        return self.next(step, 1)

    def compile_evaluation(self, state: TrainState) -> None:
        """Compiles the evaluation of each split."""
        for split in self._evaluated.values():
            self._compiled_steps.compile_evaluation(state, split)

    def launch_evaluation(self, state: TrainState, split: str) -> dict[str, list[MetricSums]]:
        """Launches the evaluation of a split; `metrics.sum_on_host` waits for the results.

        Returns:
          Sums by the prefix of their metrics (`weight_average.evaluated_states`) and the split.
        """
        return {
            prefix + split: self._compiled_steps.launch_evaluation(
                evaluated, self._evaluated[split]
            )
            for prefix, evaluated in evaluated_states(state).items()
        }

    def record(self) -> dict[str, float]:
        """Returns {}: there are no metrics to log."""
        return {}

    def summary(self) -> str | None:
        """Returns None: there is nothing to report at the end."""
        return None

    def close(self) -> None:
        """Does nothing."""
