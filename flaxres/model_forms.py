"""Forms of model names, with the depths that exist and an example, for listings and completion.

Written out, so that a listing need not import JAX; the tests compare it with the models.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelForm:
    """A form of model names.

    Attributes:
      name: name with parts in capitals: D (depth), S (one of `SHORTCUTS`), C and W (number and
        width of the groups), K (growth rate, or widening factor of a Wide ResNet).
      small: depths in configs for small images (configs/digits.py, configs/cifar10.py), such as
        '6n+2', '18,34,6n+2', '11,13' or '' if there are none. '6n+2, <164' and '9n+2, >=164' are
        limited.
      imagenet: depths in ImageNet configs (configs/imagenet.py).
      example: name of a model.
      params: number of parameters of the example, for 32x32 images and 10 classes, or for 224x224
        images and 1,000 classes if it exists only in ImageNet configs.
    """

    name: str
    small: str
    imagenet: str
    example: str
    params: int


SHORTCUTS = (
    *("A", "B", "C", "scale", "exclusive-gate", "shortcut-gate", "dropout", "weighted", "concat"),
)
IMAGENET = "18,34,50,101,152"
BOTTLENECK = "50,101,152"
MODEL_FORMS = (
    ModelForm("plain-D", "18,34,6n+2", IMAGENET, "plain-20", 269_722),
    ModelForm("resnet-D", "18,34,6n+2", IMAGENET, "resnet-56", 853_018),
    ModelForm("resnet-D-S", "18,34,6n+2", IMAGENET, "resnet-56-B", 855_770),
    ModelForm("resnet-D-bottleneck", "9n+2", "", "resnet-164-bottleneck", 1_704_154),
    ModelForm("preact-D", "18,34", "18,34", "preact-18", 11_172_170),
    ModelForm("preact-D", "6n+2, <164", "", "preact-110", 1_727_962),
    ModelForm("preact-D", "9n+2, >=164", BOTTLENECK, "preact-164", 1_703_258),
    ModelForm("wrn-D-K", "6n+4", "6n+4", "wrn-16-4", 2_748_890),
    ModelForm("resnext-D-CxWd", "9n+2", BOTTLENECK, "resnext-29-8x64d", 34_426_698),
    ModelForm("seresnet-D", "18,34,6n+2", IMAGENET, "seresnet-20", 272_095),
    ModelForm("sepreact-D", "18,34", "18,34", "sepreact-18", 11_261_250),
    ModelForm("sepreact-D", "6n+2, <164", "", "sepreact-110", 1_742_200),
    ModelForm("sepreact-D", "9n+2, >=164", BOTTLENECK, "sepreact-164", 1_905_362),
    ModelForm("seresnext-D-CxWd", "9n+2", BOTTLENECK, "seresnext-29-8x64d", 34_948_506),
    ModelForm("resnetaa-D", "18,34,6n+2", IMAGENET, "resnetaa-56", 853_018),
    ModelForm("resnetblur-D", "18,34,6n+2", IMAGENET, "resnetblur-56", 853_018),
    ModelForm("resnetd-D", "", IMAGENET, "resnetd-50", 25_576_264),
    ModelForm("resnetrs-D", "", IMAGENET, "resnetrs-50", 35_691_912),
    ModelForm("skipinit-D", "18,34", "18,34", "skipinit-18", 11_169_170),
    ModelForm("skipinit-D", "6n+2, <164", "", "skipinit-110", 1_723_968),
    ModelForm("skipinit-D", "9n+2, >=164", BOTTLENECK, "skipinit-164", 1_691_648),
    ModelForm("rezero-D", "18,34,6n+2", IMAGENET, "rezero-110", 1_728_016),
    ModelForm("fixup-D", "18,34,6n+2", IMAGENET, "fixup-110", 1_720_138),
    ModelForm("dirac-D", "18,34,6n+2", "18,34", "dirac-56", 857_050),
    ModelForm("repvgg-D", "6n+2", "", "repvgg-56", 955_178),
    ModelForm("repvgg-a0", "", "a0-a2,b0-b3", "repvgg-a0", 9_108_968),
    ModelForm("convnext-D", "9n+4", "41,47,59,113", "convnext-31", 598_922),
    ModelForm("convnext-tiny", "", "atto-large", "convnext-tiny", 28_589_128),
    ModelForm("densenet-D-K", "3n+4", "", "densenet-40-12", 1_019_722),
    ModelForm("densenet-bc-D-K", "6n+4", "", "densenet-bc-100-12", 769_162),
    ModelForm("densenet-D", "", "121,169,201,264", "densenet-121", 7_978_856),
    ModelForm("vgg-D", "11,13,16,19", "11,13,16,19", "vgg-13", 9_413_066),
    ModelForm("vgg-D-skip", "11,13,16,19", "11,13,16,19", "vgg-13-skip", 9_413_066),
    ModelForm("lenet-5", "5", "5", "lenet-5", 62_006),
    ModelForm("stargan-D", "n", "n", "stargan-6", 7_752_266),
)
# Names that completion offers after the colon of --config, besides the examples.
COMMON_NAMES = (
    *(f"{family}-{depth}" for family in ("plain", "resnet") for depth in (8, 20, 32, 44, 56, 110)),
    *(f"resnet-{depth}" for depth in (18, 34, 50, 101, 152, 164, 1202)),
    *(f"plain-{depth}" for depth in (18, 34)),
    *(f"resnet-{depth}-{shortcut}" for depth in (20, 56, 110) for shortcut in SHORTCUTS[1:]),
    *(
        "wrn-28-10",
        "wrn-40-4",
        "preact-50",
        "preact-1001",
        "resnext-29-16x64d",
        "resnext-50-32x4d",
        "densenet-100-24",
    ),
    *("seresnet-50", "seresnet-110", "seresnext-50-32x4d", "resnetaa-50", "resnetblur-50"),
    *("convnext-atto", "convnext-small", "convnext-base", "convnext-large"),
    *("repvgg-a1", "repvgg-a2", "repvgg-b0", "repvgg-b1", "repvgg-b2", "repvgg-b3"),
    *("densenet-169", "densenet-201", "vgg-11", "vgg-16", "vgg-19"),
)


def model_names() -> list[str]:
    """Returns the names of common models, sorted."""
    return sorted({form.example for form in MODEL_FORMS} | set(COMMON_NAMES))
