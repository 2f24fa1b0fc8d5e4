"""Config fields of an experiment: types, defaults and checks.

Config files (`configs/`) start from `default_config()` and change the fields of their experiment.
Where He15 (arXiv 1512.03385), section 4.2, gives a number, it is the default.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Any

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
WEIGHT_DECAY_ON = ("all", "kernels")


def default_config() -> ConfigDict:
    """Returns all config fields with their defaults.

    Durations are in steps (a step is one optimizer update on one batch), errors in percent.
    """
    config = ConfigDict()

    # Run.
    config.name = "cifar10"  # first part of the default workdir: runs/NAME/MODEL-seedSEED
    config.seed = 0  # seed of initialization, image order, augmentation and dropout
    config.dtype = "float32"  # dtype of activations, float32 or bfloat16; parameters are float32

    # Length and learning rate.
    config.batch_size = 128  # images per step, over all devices
    config.num_steps = 64_000  # training steps
    config.learning_rate = 0.1  # learning rate before decay
    # Learning-rate schedule: 'piecewise-constant' (decay at boundaries) or 'cosine' (to 0 at
    # num_steps; Loshchilov and Hutter 2017, arXiv 1608.03983).
    config.schedule = "piecewise-constant"
    config.boundaries = (32_000, 48_000)  # steps, counted from 0, at which the rate decays
    config.decay_factor = 0.1  # factor on the learning rate at each boundary
    # Steps over which the learning rate rises linearly from near 0 (Goyal 2017, arXiv 1706.02677,
    # section 2.2).
    config.linear_warmup_steps = 0

    # Optimizer and loss.
    config.momentum = 0.9  # momentum of SGD
    config.nesterov = False  # Nesterov momentum, as in Huang17 (arXiv 1608.06993), section 4.2
    # Label smoothing: weight of the uniform distribution in the training labels (Szegedy 2016,
    # arXiv 1512.00567, section 7, uses 0.1).
    config.label_smoothing = 0.0
    config.weight_decay = 1e-4  # L2 coefficient; its gradient is added before momentum
    # Parameters with weight decay: 'all', or 'kernels' (no norms and biases).
    config.weight_decay_on = "all"

    # Warm-up of ResNet-110: a lower learning rate until the training error falls below a threshold.
    config.warmup = ConfigDict()
    config.warmup.enabled = False  # excludes linear_warmup_steps
    config.warmup.learning_rate = 0.01  # learning rate during the warm-up
    config.warmup.train_error = 80.0  # training error, in percent, that ends the warm-up
    config.warmup.window = 50  # steps over which that error is averaged; not in the paper
    config.warmup.max_steps = 4_000  # steps after which the warm-up ends anyway; not in the paper

    # Logging, evaluation and checkpoints.
    config.log_every = 100  # steps between records of training metrics
    config.log_layers_every = 0  # steps between records of layer statistics (layers.jsonl); 0: none
    config.eval_every = 1_000  # steps between evaluations
    config.eval_batch_size = 500  # images per evaluation batch, over all devices
    config.checkpoint_every = 1_000  # steps between checkpoints
    config.keep_checkpoints = 3  # number of newest checkpoints that are kept
    # Steps per call of the compiled program; 0: 1 on a CPU, up to 100 on accelerators.
    config.steps_per_dispatch = 0

    # Devices.
    config.num_replicas = 1  # models with seeds seed, seed+1, ... trained in one program
    config.parallelism = "jit"  # how steps run on several devices: 'jit' (over a mesh) or 'pmap'
    config.num_devices = 0  # devices of each process; 0: all
    # Scope of the batch statistics: 'global' (the whole batch) or 'device' (each device's shard, as
    # in the paper: 64 images on each of two GPUs).
    config.bn_scope = "global"

    # Pretrained weights: a PyTorch state dict, a file of Flax variables (.msgpack) or a run
    # directory; None: random initialization (`flaxres.pretrained.load`).
    config.init_from = config_dict.placeholder(str)

    # Fine-tuning of pretrained weights (`flaxres.training.fine_tuning`).
    config.transfer = ConfigDict()
    config.transfer.new_head = False  # initializes the classification head, for other classes
    # Stages ('stage1'), blocks and layers ('conv', 'norm', 'stage1_block2') that are not trained;
    # their norms use running statistics. 'backbone': all except the classification head.
    config.transfer.frozen = ()
    config.transfer.backbone_learning_rate_scale = 1.0  # factor on the backbone's learning rate
    # Standard deviation by channel of the inputs (in 0..1) of a PyTorch state dict, which is folded
    # into the first convolution; torchvision: (0.229, 0.224, 0.225); (): not divided.
    config.transfer.image_std = ()

    # Data set.
    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # 'digits', 'folder' or a TFDS image-classification set
    # Directory of TFDS data (None: TFDS's default), or of SPLIT/CLASS/*.jpg for 'folder'.
    config.dataset.data_dir = config_dict.placeholder(str)
    config.dataset.train_split = "train"  # TFDS split syntax, such as 'train[:80%]'
    config.dataset.test_split = "test"
    # Third split to evaluate, for model selection, such as 'train[45000:]'; None: no such split.
    config.dataset.validation_split = config_dict.placeholder(str)
    config.dataset.classes = ()  # class names to keep, with labels 0, 1, ...; (): all classes
    config.dataset.broken_images = "fail"  # for images that cannot be decoded: 'fail' or 'skip'
    config.dataset.image_size = 0  # height and width of input images, in pixels; 0: not resized
    # Short side of evaluation images before the center crop, in pixels; 0: image_size. 256 for
    # crops of 224 is from Krizhevsky 2012, section 2.
    config.dataset.eval_short_side = 0
    config.dataset.mean = "pixel"  # mean that is subtracted: 'pixel' (an image) or 'channel'
    # Where images are stored: 'device', 'stream' (decoded during training) or 'auto' (stream if the
    # training split exceeds device_gib or augment.crop needs it).
    config.dataset.placement = "auto"
    config.dataset.device_gib = 4.0  # GiB of uint8 images that 'auto' stores on the device
    config.dataset.workers = -1  # decode processes of a stream; 0: threads; -1: one for each core
    config.dataset.prefetch = 4  # batches of a stream that are decoded in advance
    config.dataset.mean_images = 10_000  # images of a stream from which the mean is computed

    # Augmentation.
    config.augment = ConfigDict()
    # Random crop: 'pad' (zero padding, then a crop of the original size), 'scale' (random short
    # side, then a crop of dataset.image_size; He15, section 3.4) or 'random-resized' (random area
    # and aspect ratio, resized to dataset.image_size; Szegedy 2014, arXiv 1409.4842, section 6).
    config.augment.crop = "pad"
    config.augment.pad = 4  # 'pad': zero pixels on each side
    config.augment.short_side_range = (256, 480)  # 'scale': smallest and largest short side, pixels
    config.augment.area_range = (0.08, 1.0)  # 'random-resized': fraction of the image's area
    config.augment.aspect_ratio_range = (3 / 4, 4 / 3)  # 'random-resized': width over height
    config.augment.flip = True  # random horizontal flip
    # PCA color augmentation: standard deviation of the multiples of the principal components; 0:
    # off (Krizhevsky 2012, section 4.1, uses 0.1).
    config.augment.color = 0.0
    # Eigenvalues and (concatenated) eigenvectors of the covariance of ImageNet's RGB values in
    # 0..1: github.com/facebookarchive/fb.resnet.torch, datasets/imagenet.lua (pca).
    config.augment.color_eigenvalues = (0.2175, 0.0188, 0.0045)
    config.augment.color_eigenvectors = (
        *(-0.5675, -0.5808, -0.5836),
        *(0.7192, -0.0045, -0.6948),
        *(0.4009, -0.8140, 0.4203),
    )

    # Model.
    config.model = ConfigDict(FIELDS)  # fields that only some families read (`models.registry`)
    config.model.name = "resnet"  # family of models (`flaxres.models.registry.FAMILIES`)
    config.model.shortcut = "A"  # shortcut of residual blocks (`flaxres.models.shortcuts`)
    config.model.norm = "batch"  # normalization layer (`flaxres.models.norms.NORMS`)
    config.model.norm_momentum = 0.9  # weight of the old running statistics (PyTorch: 1 - 0.9)
    config.model.norm_epsilon = 1e-5  # added to the variance
    config.model.init_gain = 1.0  # factor on He-2015's initial std of kernels, sqrt(2 / fan-in)
    return config


def set_model(config: ConfigDict, model: str, stem: str = "cifar") -> ConfigDict:
    """Sets the model fields and the warm-up of a config, and returns the config.

    The warm-up of He15, section 4.2, is on for CIFAR's residual models of at least 110 layers.

    Args:
      config: config of an experiment; changed in place.
      model: name of the model, such as 'plain-20', 'resnet-56' or 'resnet-56-B'
        (`flaxres.models.names`).
      stem: 'cifar' or 'imagenet', the variant of the model.

    Raises:
      ConfigError: no model has this name.
    """
    try:
        fields = model_fields(model, stem)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.model.update(FIELDS)
    config.model.update(fields)
    is_deep = fields["name"] in ("resnet", "preact") and fields["depth"] >= 110
    config.warmup.enabled = is_deep and stem == "cifar"
    return config


def set_net(config: ConfigDict, net: str, stem: str = "cifar") -> ConfigDict:
    """Calls `set_model`, whose former name this is, for users' config files."""
    return set_model(config, net, stem)


net_name = model_name  # former name, for users' config files


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields by dotted name: {'seed': 0, 'model.depth': 20, ...}.

    Args:
      config: a config, or a nested dict of the same form. Tuples become lists.
      prefix: start of every name, such as 'model.'.
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def check_config(config: ConfigDict) -> None:
    """Checks everything in a config that can be checked without the data.

    Raises:
      ConfigError: a field is invalid; the message has its name, value and allowed values.
    """
    flat = flatten(config)
    _check_field_names(flat)
    fields = FieldChecker(flat)
    _check_choices(config, fields)
    try:
        check_model_fields(config.model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    check_data_fields(config, fields)
    _check_ranges(flat, fields)
    _check_warmup_and_momentum(config, fields)
    _check_color(flat, fields)
    _check_transfer(config, flat, fields)
    _check_boundaries(flat["boundaries"], fields)


def _check_field_names(flat: dict[str, Any]) -> None:
    known = flatten(default_config())
    for field in flat:
        if field not in known:
            raise ConfigError(unknown_field(field))
    for field in known:
        if field not in flat:
            raise ConfigError(f"config field {field!r} is missing")


def _check_choices(config: ConfigDict, fields: FieldChecker) -> None:
    fields.require_one_of("dtype", DTYPES)
    fields.require_one_of("weight_decay_on", WEIGHT_DECAY_ON)
    fields.require_one_of("schedule", SCHEDULES)
    fields.require_one_of("parallelism", PARALLELISMS)
    fields.require_one_of("bn_scope", BN_SCOPES)
    if config.num_replicas != 1:
        is_jit = config.parallelism == "jit"
        fields.require(is_jit, "parallelism", "jit if num_replicas is above 1")
        logs_no_layers = config.log_layers_every == 0
        fields.require(logs_no_layers, "log_layers_every", "0 if num_replicas is above 1")
    fields.require_one_of("model.norm", NORMS)


def _check_ranges(flat: dict[str, Any], fields: FieldChecker) -> None:
    for field in (
        *("batch_size", "num_steps", "log_every", "eval_every", "eval_batch_size"),
        *("checkpoint_every", "keep_checkpoints", "num_replicas"),
        *("warmup.window", "warmup.max_steps"),
    ):
        fields.require(flat[field] >= 1, field, "at least 1")
    for field in (
        *("steps_per_dispatch", "num_devices", "augment.pad", "weight_decay"),
        *("dataset.image_size", "log_layers_every", "augment.color", "linear_warmup_steps"),
    ):
        fields.require(flat[field] >= 0, field, "0 or more")
    fields.require(0 <= flat["seed"] < 2**31, "seed", "from 0 to 2**31 - 1")
    for field in (
        *("learning_rate", "decay_factor", "warmup.learning_rate"),
        *("model.norm_epsilon", "model.init_gain", "transfer.backbone_learning_rate_scale"),
    ):
        fields.require(flat[field] > 0, field, "above 0")
    for field in ("momentum", "model.norm_momentum", "label_smoothing"):
        fields.require(0 <= flat[field] < 1, field, "at least 0 and below 1")
    is_percentage = 0 < flat["warmup.train_error"] < 100
    fields.require(is_percentage, "warmup.train_error", "a percentage between 0 and 100")


def _check_warmup_and_momentum(config: ConfigDict, fields: FieldChecker) -> None:
    field, steps = "linear_warmup_steps", config.linear_warmup_steps
    fields.require(steps < config.num_steps, field, f"below num_steps ({config.num_steps})")
    has_one_warmup = steps == 0 or not config.warmup.enabled
    fields.require(has_one_warmup, field, "0 if warmup.enabled is True; a run has one warm-up")
    has_momentum = config.momentum > 0 or not config.nesterov
    fields.require(has_momentum, "nesterov", "False if momentum is 0")


def _check_color(flat: dict[str, Any], fields: FieldChecker) -> None:
    for field, count in (("augment.color_eigenvalues", 3), ("augment.color_eigenvectors", 9)):
        values = flat[field]
        are_numbers = all(isinstance(value, int | float) for value in values)
        fields.require(are_numbers and len(values) == count, field, f"{count} numbers")


def _check_transfer(config: ConfigDict, flat: dict[str, Any], fields: FieldChecker) -> None:
    is_pretrained = config.init_from is not None
    allowed = is_pretrained or not config.transfer.new_head
    fields.require(allowed, "transfer.new_head", "False without pretrained weights (--init_from)")
    are_names = all(isinstance(name, str) and name for name in flat["transfer.frozen"])
    rule = "names of stages and layers, such as ('conv', 'norm', 'stage1')"
    fields.require(are_names, "transfer.frozen", rule)
    image_std = flat["transfer.image_std"]
    are_positive = all(isinstance(value, int | float) and value > 0 for value in image_std)
    rule = "numbers above 0, such as (0.229, 0.224, 0.225)"
    fields.require(are_positive, "transfer.image_std", rule)
    allowed = is_pretrained or not image_std
    fields.require(allowed, "transfer.image_std", "() without pretrained weights (--init_from)")


def _check_boundaries(boundaries: Sequence[Any], fields: FieldChecker) -> None:
    are_steps = all(type(boundary) is int and boundary > 0 for boundary in boundaries)
    are_rising = are_steps and all(a < b for a, b in itertools.pairwise(boundaries))
    fields.require(are_rising, "boundaries", "rising numbers of steps")


def unknown_field(field: str) -> str:
    """Returns the error message for a config field that does not exist, with the closest match."""
    matches = difflib.get_close_matches(field, flatten(default_config()), n=1)
    return f"unknown config field {field!r}" + (
        f"; did you mean {matches[0]!r}?" if matches else ""
    )
