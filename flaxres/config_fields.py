"""All config fields of an experiment, with their defaults and sources.

Where He15 (arXiv 1512.03385), section 4.2, gives a number, it is the default.
`flaxres.models.fields` has the fields that only some model families read.
"""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict

from flaxres import durations
from flaxres.models.fields import FIELDS


def default_config() -> ConfigDict:
    """Returns all config fields with their defaults.

    Durations are in steps (a step is one optimizer update on one batch), errors in percent. A
    config file may give them as text too, such as '1.5ep' (`flaxres.durations`).
    """
    config = ConfigDict()

    # Run.
    config.name = "cifar10"  # first part of the default workdir: runs/NAME/MODEL-seedSEED
    config.seed = 0  # seed of initialization, image order, augmentation and dropout
    config.dtype = "float32"  # dtype of activations, float32 or bfloat16; parameters are float32

    # Length and learning rate.
    config.batch_size = 128  # images per step, over all devices (He15, section 4.2)
    config.num_steps = 64_000  # training steps (He15, section 4.2)
    config.learning_rate = 0.1  # learning rate before decay (He15, section 4.2)
    # Learning-rate schedule (`flaxres.training.schedules`): 'piecewise-constant' (decay at
    # boundaries), 'cosine' (Loshchilov and Hutter 2017, arXiv 1608.03983), 'polynomial' (power 1:
    # linear), 'one-cycle' (Smith and Topin 2018, arXiv 1708.07120) or 'wsd' (warm-up, stable,
    # decay; Hu et al. 2024, arXiv 2404.06395).
    config.schedule = "piecewise-constant"
    # Steps, counted from 0, at which the learning rate decays (He15, section 4.2).
    config.boundaries = (32_000, 48_000)
    # Factor on the learning rate at each boundary (He15, section 4.2).
    config.decay_factor = 0.1
    # Steps over which the learning rate rises linearly from near 0 (Goyal 2017, arXiv 1706.02677,
    # section 2.2).
    config.linear_warmup_steps = 0
    # Learning rate at num_steps, to which every schedule except 'piecewise-constant' falls.
    config.final_learning_rate = 0.0
    config.polynomial_power = 2.0  # 'polynomial': exponent (You et al. 2017: 2)
    # 'wsd': last steps, in which the learning rate falls; 0 for other schedules. Hägele et al. 2024
    # (arXiv 2405.18392) use 10 to 20 % of num_steps.
    config.cooldown_steps = 0
    # 'wsd': shape of the decay, '1-sqrt' (Hägele et al. 2024) or 'linear'.
    config.cooldown_shape = "1-sqrt"
    config.one_cycle = ConfigDict()
    # 'one-cycle': fraction of num_steps after which learning_rate is reached (PyTorch: 0.3).
    config.one_cycle.rise_fraction = 0.3
    # 'one-cycle': learning rate of the first step, as a fraction of learning_rate (PyTorch: 1/25).
    config.one_cycle.initial_factor = 0.04

    # Optimizer and loss.
    # Optimizer (`flaxres.training.optimizer`): 'sgd', 'adamw' (Loshchilov and Hutter 2019, arXiv
    # 1711.05101), 'lars' (You et al. 2017, arXiv 1708.03888) or 'lamb' (You et al. 2020, arXiv
    # 1904.00962).
    config.optimizer = "sgd"
    config.momentum = 0.9  # momentum of SGD (He15, section 4.2) and LARS
    config.nesterov = False  # Nesterov momentum, as in Huang17 (arXiv 1608.06993), section 4.2
    config.adam = ConfigDict()
    config.adam.beta1 = 0.9  # AdamW and LAMB: decay of the mean of the gradients
    config.adam.beta2 = 0.999  # AdamW and LAMB: decay of the mean of their squares
    config.adam.epsilon = 1e-8  # AdamW and LAMB: added to the root of it; LAMB's paper has 1e-6
    config.trust_ratio = ConfigDict()
    # LARS: factor on the ratio of the norms of weights and gradient (eta in You et al. 2017).
    config.trust_ratio.coefficient = 0.001
    # LARS and LAMB: parameters whose update is scaled by that ratio: 'all', or 'kernels' (no norms
    # and biases).
    config.trust_ratio.parameters = "kernels"
    # Largest norm of the gradient of all parameters; larger gradients are scaled to it (Pascanu et
    # al. 2013, arXiv 1211.5063, section 3.2). 0: off.
    config.clip_norm = 0.0
    # Factor between the learning rates of successive layers, from the classification head (1) to
    # the stem (Bao et al. 2022, arXiv 2106.08254; `flaxres.training.layer_decay`). 1: off.
    config.layer_decay = 1.0
    # Factor on the learning rate of scalar biases and multipliers (`flaxres.models.multipliers`);
    # 0.1 in the code of Fixup's authors (Zhang et al. 2019, arXiv 1901.09321).
    config.scalar_learning_rate_scale = 1.0
    # Loss: 'cross-entropy', or 'binary-cross-entropy' of each class, averaged over the classes
    # (Wightman 2021, arXiv 2110.00476, section 3.1).
    config.loss = "cross-entropy"
    # Binary cross-entropy: classes whose weight in the label exceeds this number get the target 1,
    # the others 0 (timm: bce_target_thresh); 0: the weights are the targets.
    config.loss_threshold = 0.0
    # Label smoothing: weight of the uniform distribution in the training labels (Szegedy 2016,
    # arXiv 1512.00567, section 7, uses 0.1).
    config.label_smoothing = 0.0
    # L2 coefficient; its gradient is added before momentum (He15, section 4.2). AdamW and LAMB add
    # it after their normalization of the gradient: decoupled weight decay.
    config.weight_decay = 1e-4
    # Parameters with weight decay: 'all', or 'kernels' (no norms and biases).
    config.weight_decay_on = "all"

    # Gradients (`flaxres.training.gradients`) and average of the weights.
    # Micro-batches into which the batch of each device is divided; their gradients are averaged.
    config.accumulation_steps = 1
    # Radius rho of sharpness-aware minimization; 0: off (Foret 2021, arXiv 2010.01412, uses 0.05).
    config.sam_radius = 0.0
    # Decay of the exponential moving average of parameters and running statistics, evaluated beside
    # them; 0: off (Szegedy 2016, arXiv 1512.00567, section 8, evaluates such an average).
    config.ema_decay = 0.0
    # Whether the decay of the average rises as min(ema_decay, (1 + t) / (10 + t)) over steps t, as
    # with `num_updates` of TensorFlow's tf.train.ExponentialMovingAverage.
    config.ema_ramp = True

    # Warm-up of ResNet-110: a lower learning rate until the training error falls below a threshold.
    config.warmup = ConfigDict()
    # Whether a run has this warm-up; it excludes linear_warmup_steps. A model name of at least 110
    # layers turns it on, as in He15, section 4.2.
    config.warmup.enabled = False
    config.warmup.learning_rate = 0.01  # learning rate during the warm-up (He15, section 4.2)
    # Training error, in percent, that ends the warm-up (He15, section 4.2).
    config.warmup.train_error = 80.0
    config.warmup.window = 50  # steps over which that error is averaged; not in the paper
    config.warmup.max_steps = 4_000  # steps after which the warm-up ends anyway; not in the paper

    # Logging, evaluation and checkpoints.
    config.log_every = 100  # steps between records of training metrics
    config.log_layers_every = 0  # steps between records of layer statistics (layers.jsonl); 0: none
    config.eval_every = 1_000  # steps between evaluations
    config.eval_batch_size = 500  # images per evaluation batch, over all devices
    config.checkpoint_every = 1_000  # steps between checkpoints
    config.keep_checkpoints = 3  # number of newest checkpoints that are kept
    # Where metrics are written besides metrics.jsonl: any of 'tensorboard', 'wandb' (Weights &
    # Biases) and 'mlflow' (`flaxres.run.trackers`).
    config.metric_writers = ("tensorboard",)
    # Steps per call of the compiled program; 0: 1 on a CPU, up to 100 on accelerators.
    config.steps_per_dispatch = 0

    # Devices.
    config.num_replicas = 1  # models with seeds seed, seed+1, ... trained in one program
    config.parallelism = "jit"  # how steps run on several devices: 'jit' (over a mesh) or 'pmap'
    config.num_devices = 0  # devices of each process; 0: all
    # Scope of the batch statistics: 'global' (the whole batch) or 'device' (each device's shard, as
    # in the paper: 64 images on each of two GPUs).
    config.bn_scope = "global"

    # Pretrained weights and fine-tuning (`flaxres.training.fine_tuning`).
    config.transfer = ConfigDict()
    # Pretrained weights: a PyTorch state dict, a file of Flax variables (.msgpack) or a run
    # directory; None: random initialization (`flaxres.pretrained.load`).
    config.init_from = config_dict.placeholder(str)
    config.transfer.new_head = False  # initializes the classification head, for other classes
    # Stages ('stage1'), blocks and layers ('conv', 'norm', 'stage1_block2') that are not trained;
    # their norms use running statistics. 'backbone': all except the classification head.
    config.transfer.frozen = ()
    config.transfer.backbone_learning_rate_scale = 1.0  # factor on the backbone's learning rate
    # Standard deviation by channel of the inputs (in 0..1) of a PyTorch state dict, which is folded
    # into the first convolution; torchvision: (0.229, 0.224, 0.225); (): not divided.
    config.transfer.image_std = ()
    # Where the shortcuts without parameters (option A) of a PyTorch model add channels of zeros,
    # which its state dict does not show: 'both-sides' (half of them before the other channels) or
    # 'end' (all of them after); None: not such a model.
    config.transfer.shortcut_padding = config_dict.placeholder(str)

    # Data set.
    config.dataset = ConfigDict()
    # 'digits', 'folder', a TFDS image-classification set NAME, or NAME_jpeg: its images as JPEG.
    config.dataset.name = "cifar10"
    # Directory of TFDS data (None: TFDS's default), or of SPLIT/CLASS/*.jpg for 'folder'.
    config.dataset.data_dir = config_dict.placeholder(str)
    config.dataset.train_split = "train"  # training images: TFDS split syntax, as 'train[:80%]'
    config.dataset.test_split = "test"  # test images, in the same syntax
    # Third split to evaluate, for model selection, such as 'train[45000:]'; None: no such split.
    config.dataset.validation_split = config_dict.placeholder(str)
    config.dataset.classes = ()  # class names to keep, with labels 0, 1, ...; (): all classes
    # What happens at an image that cannot be read: 'fail' or 'skip' (use the next image instead).
    config.dataset.broken_images = "fail"
    config.dataset.image_size = 0  # height and width of input images, in pixels; 0: not resized
    # Short side of evaluation images before the center crop, in pixels; 0: image_size. 256 for
    # crops of 224 is from Krizhevsky 2012, section 2.
    config.dataset.eval_short_side = 0
    config.dataset.mean = "pixel"  # mean that is subtracted: 'pixel' (an image) or 'channel'
    # Where images are stored: 'device', 'stream' (decoded during training) or 'auto' (stream if the
    # training split exceeds device_gib or augment.crop needs it).
    config.dataset.placement = "auto"
    config.dataset.device_gib = 4.0  # GiB of uint8 images that 'auto' stores on the device
    config.dataset.stream_gib = 1.0  # GiB of streamed images on each accelerator at a time
    # Decoding of streamed JPEG files for random crops: 'exact', or 'scaled' (a crop of at least
    # twice image_size is decoded at 1/2, 1/4 or 1/8 of its size; evaluation stays exact).
    config.dataset.decode = "exact"
    config.dataset.workers = -1  # decode processes of a stream; 0: threads; -1: one for each core
    config.dataset.prefetch = 4  # batches of a stream that are decoded in advance
    config.dataset.mean_images = 10_000  # images of a stream from which the mean is computed

    # Augmentation.
    config.augment = ConfigDict()
    # Random crop: 'pad' (zero padding, then a crop of the original size), 'scale' (random short
    # side, then a crop of dataset.image_size; He15, section 3.4) or 'random-resized' (random area
    # and aspect ratio, resized to dataset.image_size; Szegedy 2014, arXiv 1409.4842, section 6).
    config.augment.crop = "pad"
    config.augment.pad = 4  # 'pad': zero pixels on each side (He15, section 4.2)
    config.augment.short_side_range = (256, 480)  # 'scale': smallest and largest short side, pixels
    config.augment.area_range = (0.08, 1.0)  # 'random-resized': fraction of the image's area
    config.augment.aspect_ratio_range = (3 / 4, 4 / 3)  # 'random-resized': width over height
    config.augment.flip = True  # random horizontal flip (He15, section 4.2)
    # Policy of random operations on each image, before the crop: 'randaugment' (Cubuk 2020, arXiv
    # 1909.13719), 'trivial-augment' (Müller 2021, arXiv 2103.10158, wide space),
    # 'autoaugment-cifar10' (Cubuk 2019, arXiv 1805.09501) or 'none'. Operations as in torchvision.
    config.augment.policy = "none"
    config.augment.policy_operations = 2  # 'randaugment': operations per image (torchvision: 2)
    # 'randaugment': magnitude, 0 to 30 as in torchvision; 3 times a magnitude of timm.
    config.augment.policy_magnitude = 9.0
    # 'randaugment': standard deviation of the magnitude, in its units (timm: mstd, of 10).
    config.augment.policy_magnitude_std = 0.0
    # 'randaugment': probability of each operation (timm: 0.5).
    config.augment.policy_probability = 1.0
    # Gray level, 0 to 255, of pixels that an operation takes from outside the image (torchvision:
    # 0, AutoAugment's ImageNet code: 128).
    config.augment.policy_fill = 0
    # Random erasing: probability that a rectangle of an image is set to the mean color; 0: off
    # (Zhong 2020, arXiv 1708.04896, uses 0.5).
    config.augment.erasing_probability = 0.0
    # Random erasing: fraction of the image's area (torchvision's default; Zhong: 0.02 to 0.4).
    config.augment.erasing_area = (0.02, 0.33)
    # Random erasing: height over width, log-uniform (range: Zhong 2020, section 4.1).
    config.augment.erasing_aspect_ratio = (0.3, 1 / 0.3)
    # Cutout: side in pixels of a square that is set to the mean color; 0: off (DeVries 2017, arXiv
    # 1708.04552, uses 16 on CIFAR-10).
    config.augment.cutout = 0
    # mixup: alpha of the Beta(alpha, alpha) of the weight of an image; 0: off (Zhang 2018, arXiv
    # 1710.09412, uses 1 on CIFAR-10 and 0.2 on ImageNet).
    config.augment.mixup = 0.0
    # CutMix: alpha of Beta(alpha, alpha); 0: off (Yun 2019, arXiv 1905.04899, uses 1).
    config.augment.cutmix = 0.0
    # Probability that a step uses CutMix instead of mixup if both are on (timm: switch_prob).
    config.augment.cutmix_probability = 0.5
    # Probability that a step mixes at all (CutMix on CIFAR: 0.5 in the authors' code).
    config.augment.mixing_probability = 1.0
    # PCA color augmentation: standard deviation of the multiples of the principal components; 0:
    # off (Krizhevsky 2012, section 4.1, uses 0.1).
    config.augment.color = 0.0
    # Eigenvalues of the covariance of ImageNet's RGB values in 0..1:
    # github.com/facebookarchive/fb.resnet.torch, datasets/imagenet.lua (pca).
    config.augment.color_eigenvalues = (0.2175, 0.0188, 0.0045)
    # Eigenvectors of that covariance, concatenated, from the same file.
    config.augment.color_eigenvectors = (
        *(-0.5675, -0.5808, -0.5836),
        *(0.7192, -0.0045, -0.6948),
        *(0.4009, -0.8140, 0.4203),
    )

    # Model.
    config.model = ConfigDict(FIELDS)  # fields that only some families read (`models.fields`)
    config.model.name = "resnet"  # family of models (`flaxres.models.registry.FAMILIES`)
    config.model.shortcut = "A"  # shortcut of residual blocks (`flaxres.models.shortcuts`)
    config.model.norm = "batch"  # normalization layer (`flaxres.models.norms.NORMS`)
    config.model.norm_momentum = 0.9  # weight of the old running statistics (PyTorch: 1 - 0.9)
    config.model.norm_epsilon = 1e-5  # added to the variance
    config.model.init_gain = 1.0  # factor on He-2015's initial std of kernels, sqrt(2 / fan-in)
    durations.accept_text(config)
    return config
