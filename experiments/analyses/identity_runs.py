"""Trained nets, the deeper ones to make of them, and the runs that train these on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

import configs
from experiments.analyses.identity_init import check_deeper
from experiments.results.run_names import run_name
from experiments.results.runs import read_run
from experiments.sweeps.plan import import_file
from flaxres.config import flatten, model_name, set_model
from flaxres.errors import ConfigError
from flaxres.models.names import model_fields
from flaxres.run.workdir import differing_fields, read_run_config

CONFIGS = Path(configs.__file__).parent
PLAIN_CONFIG = "cifar10"  # its values are the defaults


@dataclasses.dataclass(frozen=True)
class Pair:
    """A trained net and the one to make of it.

    Attributes:
      directory: of the trained run.
      shallow: its net, or the variant that a sweep made of it.
      deeper: the same of the net to make.
      config: of that net from random weights.
    """

    directory: Path
    shallow: str
    deeper: str
    config: ConfigDict


def find_pairs(
    directories: Sequence[Path], shallow: Sequence[str], deeper: Sequence[str]
) -> list[Pair]:
    """The pairs that are asked for, all checked.

    Args:
      directories: of the runs.
      shallow: nets such as plain-20, or depths; empty for the shallowest of each kind, which is all
        that differ in depth and seed alone.
      deeper: the same, of the nets to make; a net is made of those of its own kind.

    Raises:
      ConfigError: no run is of such a net, or a pair cannot be made.
      WorkdirError: a run cannot be read.
    """
    known = {directory: read_run_config(directory) for directory in directories}
    chosen = _choose(known, shallow)
    pairs, used = [], set()
    for directory, config in chosen.items():
        label = _label(directory, config)
        for spec in deeper:
            if (depth := _depth(spec, config.model)) is None:
                continue
            used.add(spec)
            other = _at_depth(config, depth)
            check_deeper(config.model, other.model)
            own, target = model_name(config.model), model_name(other.model)
            name = label.replace(own, target) if own in label else f"{target}-{label}"
            pairs.append(Pair(directory, label, name, _with_warmup(other)))
    if not deeper or set(deeper) - used:
        found = ", ".join(dict.fromkeys(_label(*item) for item in chosen.items()))
        raise ConfigError(
            f"--deeper must be depths, or nets of the kind of {found}, got {','.join(deeper)!r}"
        )
    return pairs


def _choose(known: Mapping[Path, ConfigDict], shallow: Sequence[str]) -> dict[Path, ConfigDict]:
    """The runs to start from, with their configs."""
    if not shallow:
        least: dict[str, int] = {}
        for config in known.values():
            kind = _kind(config)
            least[kind] = min(config.model.depth, least.get(kind, config.model.depth))
        return {d: c for d, c in known.items() if c.model.depth == least[_kind(c)]}
    chosen = {}
    for spec in shallow:
        own = {d: c for d, c in known.items() if spec in (_label(d, c), str(c.model.depth))}
        if not own:
            there = ", ".join(dict.fromkeys(_label(*item) for item in known.items()))
            raise ConfigError(f"--shallow={spec} is none of the runs, which are of {there}")
        chosen |= own
    return chosen


def _kind(config: ConfigDict) -> str:
    """Equal for runs that differ in depth and seed alone."""
    own = ("seed", "model.depth", "warmup.enabled")
    return json.dumps({f: value for f, value in flatten(config).items() if f not in own})


def _label(directory: Path, config: ConfigDict) -> str:
    """The net of a run, or the variant that a sweep made of it."""
    name, slash, _ = run_name(directory).partition("/")
    return name if slash else model_name(config.model)


def _depth(spec: str, model: ConfigDict) -> int | None:
    """The depth that a flag asks for; None for a net of another kind.

    Raises:
      ConfigError: it is neither a depth nor a net.
    """
    if spec.isdecimal():
        return int(spec)
    try:
        fields = model_fields(spec, model.stem)
        other = ConfigDict({**model.to_dict(), "depth": fields["depth"]})
        return other.depth if model_fields(model_name(other), model.stem) == fields else None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _at_depth(config: ConfigDict, depth: int) -> ConfigDict:
    """A copy with another depth, which begins with random weights."""
    config = config.copy_and_resolve_references()
    config.model.depth, config.init_from = depth, None
    return config


def _with_warmup(config: ConfigDict) -> ConfigDict:
    """The config with the warm-up that the deepest nets of He15 have."""
    model = config.model
    paper = set_model(config.copy_and_resolve_references(), model_name(model), model.stem)
    config.warmup.enabled = config.warmup.enabled or paper.warmup.enabled
    return config


def parse_factors(given: Sequence[str]) -> list[float]:
    """Factors of the learning rate.

    Raises:
      ConfigError: they are no numbers above 0.
    """
    try:
        factors = [float(value) for value in given]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < float("inf") for factor in factors):
        raise ConfigError(f"--rate_factors must be numbers above 0, got {','.join(given)!r}")
    return factors


def trained_on(pair: Pair, weights: Path, factors: Iterable[float]) -> dict[str, ConfigDict]:
    """Configs of the runs that go on from the net that was made, by name.

    Args:
      pair: what it was made of.
      weights: its file.
      factors: of the config's learning rate.
    """
    found = {}
    for factor in factors:
        config = pair.config.copy_and_resolve_references()
        rate = float(f"{factor * config.learning_rate:.6g}")
        config.learning_rate, config.init_from = rate, str(from_here(weights))
        config.warmup.enabled = False  # it waits for an error that these nets begin below
        suffix = "" if factor == 1 else f"-lr{rate:g}"
        found[f"{pair.deeper}-from-{pair.shallow}{suffix}"] = config
    return found


def finished_twin(directories: Iterable[Path], config: ConfigDict) -> Path | None:
    """The directory of a finished run of this config, if there is one."""
    for directory in directories:
        if not differing_fields(flatten(read_run_config(directory)), flatten(config)):
            run = read_run(directory)
            if run is not None and run.finished:
                return directory
    return None


def plan_entry(name: str, config: ConfigDict) -> dict[str, object]:
    """A run as `make_plans` takes it, from all fields of its config.

    config.json does not say which file a run's config came from. So the file is that of the same
    name in configs/, or else that of the defaults, and each field in which it differs from the
    run's config is overridden: any of them makes the same config.

    Args:
      name: NAME/seed-N.
      config: of the run.
    """
    path = CONFIGS / f"{config.name}.py"
    if not config.name.isidentifier() or not path.is_file():
        path = CONFIGS / f"{PLAIN_CONFIG}.py"
    net = model_name(config.model)
    base = flatten(import_file(str(path), "config").get_config(net))
    overrides = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in flatten(config).items()
        if value != base[field]
    }
    return {"name": name, "config": f"{from_here(path)}:{net}", "overrides": overrides}


def from_here(path: Path) -> Path:
    """Relative to the current directory if it is below, so that both can be moved together."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
