"""The fields of an experiment: their types, defaults and checks.

The files in `configs/` start from `default_config()` and change what their experiment needs.
Defaults are those of He15 (arXiv 1512.03385), section 4.2, where the paper gives a number.
"""

from __future__ import annotations

import difflib
import itertools

from ml_collections import ConfigDict, config_dict

from flaxres.devices import PARALLELISMS
from flaxres.errors import ConfigError
from flaxres.models.names import fields_of, net_name
from flaxres.models.nets import FIELDS, check_model
from flaxres.models.norms import BN_SCOPES, NORMS

__all__ = ["check_config", "default_config", "flatten", "net_name", "set_net", "unknown_field"]

DTYPES = ("float32", "bfloat16")
BROKEN_IMAGES = ("fail", "skip")
DECAYED = ("all", "kernels")


def default_config() -> ConfigDict:
    """Every field there is. Durations are in steps (one step is one batch), errors in percent."""
    config = ConfigDict()
    config.name = "cifar10"  # names the default workdir: runs/<name>/<net>-seed<seed>
    config.seed = 0  # of initialisation, order and augmentation
    config.dtype = "float32"  # of the computation: float32 or bfloat16

    config.batch_size = 128
    config.num_steps = 64_000
    config.learning_rate = 0.1
    config.boundaries = (32_000, 48_000)  # the learning rate drops before these steps (0 is first)
    config.decay_factor = 0.1  # the learning rate is multiplied by it at each boundary
    config.momentum = 0.9
    config.weight_decay = 1e-4  # L2, added to the gradient before momentum
    config.weight_decay_on = (
        "all"  # all: norms and biases too; kernels: conv and dense kernels only
    )

    # Warm-up of ResNet-110: a lower learning rate until the training error falls below a threshold.
    config.warmup = ConfigDict()
    config.warmup.enabled = False
    config.warmup.learning_rate = 0.01
    config.warmup.train_error = 80.0
    config.warmup.window = 50  # steps over which the training error is averaged; not in the paper
    config.warmup.max_steps = (
        4_000  # ends in any case, so that no run stays there; not in the paper
    )

    config.log_every = 100
    config.log_layers_every = 0  # gradient norms and activations by layer (layers.jsonl); 0: never
    config.eval_every = 1_000
    config.eval_batch_size = 500
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 3
    config.steps_per_dispatch = 0  # 0: one on a CPU, up to 100 on accelerators

    config.num_replicas = 1  # seeds from `seed` on in one program; see `flaxres.replicas`
    config.parallelism = "jit"  # what compiles the steps for many devices: jit or pmap
    config.num_devices = 0  # of each process; 0: all that JAX sees
    # Whose images batch norm takes together: all of the batch, or those of each device, as in the
    # paper (64 on each of two GPUs).
    config.bn_scope = "global"

    # What to begin with in the place of random weights: a PyTorch state dict, a file of variables
    # (.msgpack), or the directory of a run; see `flaxres.weights`.
    config.init_from = config_dict.placeholder(str)

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # digits, folder, or any TFDS image-classification set
    # Where TFDS keeps its data, if None; of 'folder', what holds SPLIT/CLASS/*.jpg.
    config.dataset.data_dir = config_dict.placeholder(str)
    config.dataset.train_split = "train"
    config.dataset.test_split = "test"
    # Evaluated beside the test split, to choose a step without looking at that: 'train[45000:]'.
    config.dataset.validation_split = config_dict.placeholder(str)

    config.dataset.classes = ()  # names of those to keep, which get the labels 0, 1, ...; (): all
    config.dataset.broken_images = "fail"  # what to do with those that cannot be decoded: or skip
    # Pixels on each side that all images are scaled to (`flaxres.data.resize`); 0: as they are.
    config.dataset.image_size = 0

    config.augment = ConfigDict()
    config.augment.pad = 4  # pixels on each side, before a random crop of the original size
    config.augment.flip = True  # random horizontal flip

    config.model = ConfigDict(FIELDS)  # those that depend on the family
    config.model.name = "resnet"
    config.model.shortcut = "A"
    config.model.norm = "batch"
    config.model.norm_momentum = 0.9  # weight of the old running statistics (PyTorch's 0.1)
    config.model.norm_epsilon = 1e-5
    # Kernels of convolutions begin so many times He-2015's standard deviation, sqrt(2 / fan-in).
    config.model.init_gain = 1.0
    return config


def set_net(config: ConfigDict, net: str, stem: str = "cifar") -> ConfigDict:
    """Sets the fields of the net that `net` names (`flaxres.models.names`); returns `config`.

    CIFAR's residual nets of 110 layers and more also get the warm-up of He15, section 4.2.

    Args:
      config: the experiment.
      net: such as plain-20, resnet-56 or resnet-56-B.
      stem: cifar or imagenet: which of the nets of that name.

    Raises:
      ConfigError: the name does not have this form.
    """
    try:
        fields = fields_of(net, stem)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.model.update(FIELDS)
    config.model.update(fields)
    deep = fields["name"] in ("resnet", "preact") and fields["depth"] >= 110
    config.warmup.enabled = deep and stem == "cifar"
    return config


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Fields by their dotted names: {'seed': 0, 'model.depth': 20, ...}; tuples become lists."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def check_config(config: ConfigDict) -> None:
    """Checks everything that can be checked without the data.

    Raises:
      ConfigError: with the field, what was given, and what would be right.
    """
    flat, known = flatten(config), flatten(default_config())
    for field in flat:
        if field not in known:
            raise ConfigError(unknown_field(field))
    for field in known:
        if field not in flat:
            raise ConfigError(f"config field {field!r} is missing")

    def need(ok: bool, field: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{field} must be {rule}, got {flat[field]!r}")

    def one_of(field: str, names: tuple[str, ...]) -> None:
        need(flat[field] in names, field, f"one of {', '.join(names)}")

    one_of("dtype", DTYPES)
    one_of("dataset.broken_images", BROKEN_IMAGES)
    one_of("weight_decay_on", DECAYED)
    one_of("parallelism", PARALLELISMS)
    one_of("bn_scope", BN_SCOPES)
    alone = config.num_replicas == 1 or config.parallelism == "jit"
    need(alone, "parallelism", "jit where num_replicas is above 1")
    quiet = config.num_replicas == 1 or config.log_layers_every == 0
    need(quiet, "log_layers_every", "0 where num_replicas is above 1")
    one_of("model.norm", NORMS)
    try:
        check_model(config.model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for field in (
        *("batch_size", "num_steps", "log_every", "eval_every", "eval_batch_size"),
        *(
            "checkpoint_every",
            "keep_checkpoints",
            "num_replicas",
            "warmup.window",
            "warmup.max_steps",
        ),
    ):
        need(flat[field] >= 1, field, "at least 1")
    for field in (
        *("steps_per_dispatch", "num_devices", "augment.pad", "weight_decay"),
        *("dataset.image_size", "log_layers_every"),
    ):
        need(flat[field] >= 0, field, "0 or more")
    need(0 <= config.seed < 2**31, "seed", "from 0 to 2**31 - 1")
    for field in (
        *("learning_rate", "decay_factor", "warmup.learning_rate"),
        *("model.norm_epsilon", "model.init_gain"),
    ):
        need(flat[field] > 0, field, "above 0")
    for field in ("momentum", "model.norm_momentum"):
        need(0 <= flat[field] < 1, field, "at least 0 and below 1")
    need(0 < config.warmup.train_error < 100, "warmup.train_error", "percent, between 0 and 100")
    boundaries = flat["boundaries"]
    whole = all(type(boundary) is int and boundary > 0 for boundary in boundaries)
    rising = whole and all(a < b for a, b in itertools.pairwise(boundaries))
    need(rising, "boundaries", "rising numbers of steps")


def unknown_field(field: str) -> str:
    """The error message for a config field that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(field, flatten(default_config()), n=1)
    return f"unknown config field {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
