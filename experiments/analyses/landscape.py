r"""Loss and training error along lines and planes through trained models.

flaxres analyze landscape --workdir=runs/degradation --only='*-56'
flaxres analyze landscape --workdir=runs/degradation --kind=plane
flaxres analyze landscape --workdir=... --kind=between \
    --between=resnet-56/seed-0,resnet-56/seed-1

Li et al. 2018 (arXiv 1712.09913), section 4: 'line' and 'plane' follow one and two random
directions with the filter norms of the model (`experiments.analyses.directions`), through each run.
'between' is the straight line from one run to another run of the same model (Goodfellow, Vinyals
and Saxe 2015, arXiv 1412.6544, section 3). Batch norm uses running statistics. Along a line or
plane these are the statistics of the model in the middle. Between two runs they are interpolated,
so they are not the statistics of the models between. With --statistics=population they are
recomputed for every point.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from flaxres.config import flatten
from flaxres.errors import ConfigError
from flaxres.experiments.analyses import landscape_figures
from flaxres.experiments.analyses.base import (
    TrainedRun,
    figure_note,
    write_rows,
)
from flaxres.experiments.analyses.landscape_points import (
    DEFAULT_POINTS,
    Options,
    measure,
    measure_between,
)
from flaxres.experiments.analyses.model_sources import ModelSource, measure_runs
from flaxres.experiments.analyses.progress import log_done, progress_bar
from flaxres.inference.population_statistics import BATCH_STATS, check_has_statistics
from flaxres.run.workdir import CHANGEABLE_FIELDS
from flaxres.suggestions import did_you_mean

# Model fields that change the training but not the trained model; they may differ between two runs.
TRAINING_FIELDS = (
    *("remat", "scan", "zero_init", "dropout_rate", "gate_bias", "norm_momentum", "init"),
    *("init_gain", "branch_scale_init", "block_dropout", "identity_scale", "kernel_scale"),
)
WITHOUT_SHORTCUTS = ("plain", "dirac", "repvgg", "lenet")  # families; VGG has a field for them


def define_flags() -> None:
    """Defines a flag for each option."""
    default = Options()
    flags.DEFINE_enum(
        "kind",
        default.kind,
        list(DEFAULT_POINTS),
        "Landscape: 'line' or 'plane' along random directions, or the line 'between' two runs.",
    )
    counts = ", ".join(f"{count} for '{kind}'" for kind, count in DEFAULT_POINTS.items())
    flags.DEFINE_integer(
        "points",
        0,
        f"Number of points on each axis; 0 for the default of the kind ({counts}).",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "reach",
        default.reach,
        "Axes of a line or plane extend from -reach to reach, in filter norms.",
        lower_bound=1e-6,
    )
    flags.DEFINE_integer(
        "images",
        default.images,
        "Number of training images, from the start of the split; 0 for all.",
        lower_bound=0,
    )
    flags.DEFINE_integer("seed", default.seed, "Seed of the random directions.", lower_bound=0)
    flags.DEFINE_list(
        "between",
        [],
        "Two runs of one model, for --kind=between, e.g. resnet-56/seed-0,resnet-56/seed-1.",
    )
    flags.DEFINE_enum(
        "statistics",
        default.statistics,
        list(BATCH_STATS),
        "Statistics of batch norm: 'running', or 'population' recomputed for every point.",
    )


def check_same_model(first: ConfigDict, second: ConfigDict, names: Sequence[str]) -> None:
    """Checks that two configs have the same model and data set.

    Args:
      first: config of a run.
      second: config of another run.
      names: names of the two runs, for the message.

    Raises:
      ConfigError: a field differs; the message names the first one.
    """
    values, other_values = flatten(first), flatten(second)
    for field in values:
        group, _, name = field.rpartition(".")
        is_compared = group == "dataset" or field == "dtype"
        is_compared |= group == "model" and name not in TRAINING_FIELDS
        is_compared &= field not in CHANGEABLE_FIELDS
        if is_compared and values[field] != other_values[field]:
            raise ConfigError(
                f"--between must name two runs of one model, got {' and '.join(names)}: {field} is "
                f"{values[field]!r} and {other_values[field]!r}"
            )


def _check_ends(
    sources: Sequence[ModelSource], options: Options
) -> tuple[ModelSource, ModelSource]:
    """Returns the two runs that `options.between` names."""
    if len(options.between) != 2:
        raise ConfigError(
            "--kind=between needs two runs of one model, --between=MODEL/seed-0,MODEL/seed-1; got "
            f"{','.join(options.between) or 'none'}"
        )
    known = {source.name: source for source in sources}
    for name in options.between:
        if name not in known:
            raise ConfigError(
                f"--between names {name!r}, which is not one of the runs: {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    first, second = (known[name] for name in options.between)
    check_same_model(first.config, second.config, options.between)
    return first, second


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Analyzes the models with the options given by the flags and returns the files.

    Raises:
      UserError: options that contradict each other, or a run without a checkpoint.
    """
    values = flags.FLAGS
    options = Options(
        kind=values.kind,
        points=values.points,
        reach=values.reach,
        images=values.images,
        seed=values.seed,
        between=tuple(values.between),
        statistics=values.statistics,
    )
    return analyze_runs(sources, output, options)


def analyze_runs(sources: Sequence[ModelSource], output: Path, options: Options) -> list[Path]:
    """Measures the models, writes landscape_KIND.csv, .png and .svg, and returns the files.

    Args:
      sources: the models.
      output: directory of the files.
      options: options of the analysis.

    Raises:
      UserError: options that contradict each other, or a run without a checkpoint.
    """
    if options.between and options.kind != "between":
        raise ConfigError(f"--between requires --kind=between, got --kind={options.kind}")
    axis = options.axis()

    def cost(config: ConfigDict) -> int:
        if options.statistics == "population":
            check_has_statistics(config)
        return config.model.depth * len(axis) ** (2 if options.kind == "plane" else 1)

    if options.kind == "between":
        ends = _check_ends(sources, options)
        costs = [cost(source.config) for source in ends]
        start = time.monotonic()
        with progress_bar(costs[0]) as advance:
            first, second = (source.load() for source in ends)
            rows = measure_between(first, second, options, advance)
        log_done(f"{first.name} to {second.name}", time.monotonic() - start)
        runs = [first, second]
    else:
        rows, runs = measure_runs(
            sources, cost, lambda run, advance: measure(run, options, advance)
        )
    path = output / f"landscape_{options.kind}"
    files = [write_rows(rows, path.with_suffix(".csv"))]
    note = figure_note(runs, _describe(runs[0], options))
    if options.kind == "between":
        return files + landscape_figures.draw_between(rows, path, note)
    if options.kind == "plane":
        return files + landscape_figures.draw_plane(rows, path, note)
    groups = {run.variant: _group(run.config.model) for run in runs}
    return files + landscape_figures.draw_lines(rows, groups, path, note)


def _group(model: ConfigDict) -> str:
    """Returns the title of the panels in which a model is drawn."""
    is_plain = model.name in WITHOUT_SHORTCUTS or (model.name == "vgg" and not model.skip)
    return f"models {'without' if is_plain else 'with'} shortcuts"


def _describe(run: TrainedRun, options: Options) -> str:
    """Returns a description of the figure."""
    size = len(run.dataset.train)
    images = f"{min(options.images or size, size):,} training images"
    text = {
        "line": f"{images}, along a filter-normalized random direction",
        "plane": f"loss on {images}, along two filter-normalized random directions",
        "between": f"{images}, between {' and '.join(options.between)}",
    }[options.kind]
    if run.config.model.norm == "batch":
        if (options.kind, options.statistics) == ("between", "running"):
            return f"{text}, interpolated running statistics (not those of the models between)"
        text += f", {options.statistics} statistics"
    return text
