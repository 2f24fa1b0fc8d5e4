"""ImageNet as in He15 (arXiv 1512.03385), section 3.4: the models of section 4.1 and later ones.

python -m flaxres.main --config=configs/imagenet.py:resnet-50 --workdir=runs/imagenet/resnet-50

Models: resnet-18, -34, -50, -101, -152, plain-18, plain-34, resnext-50-32x4d, densenet-121, vgg-13
and vgg-13-skip; resnet-34-A and -C have other shortcuts. Images are read, decoded and cropped
during training. `--config.dataset.name=imagenette` is a small data set of the same kind.

Expect the errors of the paper's tables 2 and 3: top-1 and top-5 in percent on the validation split,
with 10 crops of each image (`--mode=eval --test_crops=10-crop`):

    plain-18    27.94           ResNet-34 B   24.52  7.46
    ResNet-18 A 27.88           ResNet-34 C   24.19  7.40
    plain-34    28.54  10.02    ResNet-50     22.85  6.71
    ResNet-34 A 25.03   7.76    ResNet-101    21.75  6.05
                                ResNet-152    21.43  5.71

During training only the center crop is evaluated; its error is one or two points higher. The
models that the authors released use population statistics (`--mode=eval
--batch_stats=population`). Meant for an accelerator; time and errors have not been measured with
this code.
"""

from ml_collections import ConfigDict

from flaxres.config import default_config, set_model


def get_config(model: str = "resnet-50") -> ConfigDict:
    """Returns the paper's experiment for a model name such as 'resnet-50'."""
    config = default_config()
    config.name = "imagenet"
    config.batch_size = 256
    config.num_steps = 600_000
    config.learning_rate = 0.1
    # The paper divides the learning rate by 10 "when the error plateaus", without giving steps.
    config.boundaries = (150_000, 300_000, 450_000)
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.eval_every = 5_000
    config.dataset.name = "imagenet2012"
    config.dataset.test_split = "validation"
    config.dataset.image_size = 224
    config.dataset.eval_short_side = 256  # Krizhevsky 2012, section 2, adopted by the paper
    config.dataset.mean = "pixel"
    config.augment.crop = "scale"
    config.augment.short_side_range = (256, 480)
    config.augment.pad = 0
    config.augment.flip = True
    config.augment.color = 0.1  # "the standard color augmentation in [21]": Krizhevsky 2012
    return set_model(config, model, stem="imagenet")
