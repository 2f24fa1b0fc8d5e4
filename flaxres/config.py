"""The fields of an experiment: their types, defaults and checks.

The files in `configs/` start from `default_config()` and change what their experiment needs.
Defaults are those of He15 (arXiv 1512.03385), section 4.2, where the paper gives a number.
"""

from __future__ import annotations

import difflib
import itertools

from ml_collections import ConfigDict, config_dict

from flaxres.data.options import check_data_fields
from flaxres.errors import ConfigError
from flaxres.field_checks import FieldChecker
from flaxres.models.names import model_fields, model_name
from flaxres.models.norms import BN_SCOPES, NORMS
from flaxres.models.registry import FIELDS, check_model_fields

__all__ = ["check_config", "default_config", "flatten", "model_name", "set_model", "unknown_field"]

DTYPES = ("float32", "bfloat16")
SCHEDULES = ("piecewise-constant", "cosine")
PARALLELISMS = ("jit", "pmap")
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
    # What becomes of the rate: it drops at the boundaries, or falls to 0 at num_steps along half a
    # cosine (Loshchilov and Hutter 2017, arXiv 1608.03983); see `flaxres.training.optimizer.learning_rate`.
    config.schedule = "piecewise-constant"
    config.boundaries = (32_000, 48_000)  # the learning rate drops before these steps (0 is first)
    config.decay_factor = 0.1  # the learning rate is multiplied by it at each boundary
    # The rate rises in equal parts over so many steps; Goyal 2017 (arXiv 1706.02677), section 2.2.
    config.linear_warmup_steps = 0
    config.momentum = 0.9
    config.nesterov = False  # look-ahead momentum, as of Huang17 (arXiv 1608.06993), section 4.2
    # Weight of the even distribution over classes in the labels of training; Szegedy 2016 (arXiv
    # 1512.00567), section 7, has 0.1.
    config.label_smoothing = 0.0
    config.weight_decay = 1e-4  # L2, added to the gradient before momentum
    config.weight_decay_on = (
        "all"  # all: norms and biases too; kernels: conv and dense kernels only
    )

    # Warm-up of ResNet-110: a lower learning rate until the training error falls below a threshold.
    # That of `linear_warmup_steps` is another one.
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

    config.num_replicas = 1  # seeds from `seed` on in one program; see `flaxres.parallel.replicas`
    config.parallelism = "jit"  # what compiles the steps for many devices: jit or pmap
    config.num_devices = 0  # of each process; 0: all that JAX sees
    # Whose images batch norm takes together: all of the batch, or those of each device, as in the
    # paper (64 on each of two GPUs).
    config.bn_scope = "global"

    # What to begin with in the place of random weights: a PyTorch state dict, a file of variables
    # (.msgpack), or the directory of a run; see `flaxres.pretrained.load`.
    config.init_from = config_dict.placeholder(str)

    # Fine-tuning of such weights on another task; see `flaxres.training.fine_tuning`.
    config.transfer = ConfigDict()
    config.transfer.new_head = False  # the last dense layer begins anew, for other classes
    # Stages ('stage1') and layers ('conv', 'norm', 'stage1_block2') that stay as they are, with
    # running statistics in training; 'backbone': all but the last dense layer.
    config.transfer.frozen = ()
    config.transfer.backbone_learning_rate_scale = (
        1.0  # times the learning rate, in all but the last dense layer
    )
    # What images in 0..1 were divided by for a PyTorch state dict, a number for each channel;
    # torchvision's are (0.229, 0.224, 0.225). The first convolution takes it in.
    config.transfer.image_std = ()

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
    # Evaluation takes the middle of images whose short side is scaled to so many; 0: image_size.
    # 256 for 224 is Krizhevsky 2012's, section 2.
    config.dataset.eval_short_side = 0
    config.dataset.mean = "pixel"  # what is subtracted: an image, or a number for each channel
    # Where the images are: all of them on the device, or read, decoded and sent there step by step.
    # auto: stream where the training split takes more than device_gib, or augment.crop needs it.
    config.dataset.placement = "auto"
    config.dataset.device_gib = 4.0  # GiB, as uint8
    config.dataset.workers = -1  # of a stream, processes that decode; 0: threads; -1: by cores
    config.dataset.prefetch = 4  # batches of a stream that are decoded ahead
    config.dataset.mean_images = 10_000  # of a stream, whose mean is subtracted

    config.augment = ConfigDict()
    # pad: zeros around the image, then a random crop of the original size. Of larger images: scale
    # (He15, section 3.4): a random short side, then a crop of dataset.image_size; area (Szegedy
    # 2014, arXiv 1409.4842, section 6): a crop of random area and aspect, scaled to that size.
    config.augment.crop = "pad"
    config.augment.pad = 4  # pixels on each side
    config.augment.short_side_range = (256, 480)  # of scale: pixels
    config.augment.area_range = (0.08, 1.0)  # of area: parts of the image's
    config.augment.aspect_ratio_range = (3 / 4, 4 / 3)  # of area: width over height
    config.augment.flip = True  # random horizontal flip
    # Deviation of the multiples of RGB's principal components that are added to an image; 0: none.
    # Krizhevsky 2012, section 4.1, has 0.1. See `flaxres.data.augment.pca_color_augmentation`.
    config.augment.color = 0.0
    # Eigenvalues of the covariance of ImageNet's RGB in units of 0..1, and its eigenvectors, one
    # after the other: github.com/facebookarchive/fb.resnet.torch, datasets/imagenet.lua (pca).
    config.augment.color_eigenvalues = (0.2175, 0.0188, 0.0045)
    config.augment.color_eigenvectors = (
        *(-0.5675, -0.5808, -0.5836),
        *(0.7192, -0.0045, -0.6948),
        *(0.4009, -0.8140, 0.4203),
    )

    config.model = ConfigDict(FIELDS)  # those that depend on the family
    config.model.name = "resnet"
    config.model.shortcut = "A"
    config.model.norm = "batch"
    config.model.norm_momentum = 0.9  # weight of the old running statistics (PyTorch's 0.1)
    config.model.norm_epsilon = 1e-5
    # Kernels of convolutions begin so many times He-2015's standard deviation, sqrt(2 / fan-in).
    config.model.init_gain = 1.0
    return config


def set_model(config: ConfigDict, net: str, stem: str = "cifar") -> ConfigDict:
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
        fields = model_fields(net, stem)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.model.update(FIELDS)
    config.model.update(fields)
    deep = fields["name"] in ("resnet", "preact") and fields["depth"] >= 110
    config.warmup.enabled = deep and stem == "cifar"
    return config


set_net = set_model  # the former name, for config files that use it


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

    fields = FieldChecker(flat)
    need, one_of = fields.require, fields.require_one_of

    one_of("dtype", DTYPES)
    one_of("weight_decay_on", DECAYED)
    one_of("schedule", SCHEDULES)
    one_of("parallelism", PARALLELISMS)
    one_of("bn_scope", BN_SCOPES)
    alone = config.num_replicas == 1 or config.parallelism == "jit"
    need(alone, "parallelism", "jit where num_replicas is above 1")
    quiet = config.num_replicas == 1 or config.log_layers_every == 0
    need(quiet, "log_layers_every", "0 where num_replicas is above 1")
    one_of("model.norm", NORMS)
    try:
        check_model_fields(config.model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    check_data_fields(config, fields)
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
        *("dataset.image_size", "log_layers_every", "augment.color", "linear_warmup_steps"),
    ):
        need(flat[field] >= 0, field, "0 or more")
    need(0 <= config.seed < 2**31, "seed", "from 0 to 2**31 - 1")
    for field in (
        *("learning_rate", "decay_factor", "warmup.learning_rate"),
        *("model.norm_epsilon", "model.init_gain", "transfer.backbone_learning_rate_scale"),
    ):
        need(flat[field] > 0, field, "above 0")
    for field in ("momentum", "model.norm_momentum", "label_smoothing"):
        need(0 <= flat[field] < 1, field, "at least 0 and below 1")
    need(0 < config.warmup.train_error < 100, "warmup.train_error", "percent, between 0 and 100")
    ramp = config.linear_warmup_steps
    need(ramp < config.num_steps, "linear_warmup_steps", f"below num_steps, {config.num_steps}")
    ok = ramp == 0 or not config.warmup.enabled
    need(ok, "linear_warmup_steps", "0 where warmup.enabled, of which a run has one")
    need(config.momentum > 0 or not config.nesterov, "nesterov", "False where momentum is 0")
    for field, count in (("augment.color_eigenvalues", 3), ("augment.color_eigenvectors", 9)):
        numbers = all(isinstance(value, int | float) for value in flat[field])
        need(numbers and len(flat[field]) == count, field, f"{count} numbers")
    ok = config.init_from is not None or not config.transfer.new_head
    need(ok, "transfer.new_head", "False without weights to begin with (--init_from)")
    ok = all(isinstance(name, str) and name for name in flat["transfer.frozen"])
    need(ok, "transfer.frozen", "names of stages and layers, such as ('conv', 'norm', 'stage1')")
    ok = all(isinstance(value, int | float) and value > 0 for value in flat["transfer.image_std"])
    need(ok, "transfer.image_std", "numbers above 0, such as (0.229, 0.224, 0.225)")
    ok = config.init_from is not None or not flat["transfer.image_std"]
    need(ok, "transfer.image_std", "() without weights to begin with (--init_from)")
    boundaries = flat["boundaries"]
    whole = all(type(boundary) is int and boundary > 0 for boundary in boundaries)
    rising = whole and all(a < b for a, b in itertools.pairwise(boundaries))
    need(rising, "boundaries", "rising numbers of steps")


def unknown_field(field: str) -> str:
    """The error message for a config field that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(field, flatten(default_config()), n=1)
    return f"unknown config field {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
