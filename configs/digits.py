"""scikit-learn's 8x8 digits: the degradation of plain networks in minutes on a laptop, no download.

python -m flaxres.main --config=configs/digits.py:plain-56 --workdir=runs/digits/plain-56

With seed 0, expect training errors of about 0, 5, 4 to 22 and 90 % for plain-20, 32, 44 and 56, and
below 1 % for the four residual models. With other seeds, ResNet-56 has reached up to 10 %. All
eight models (`make degradation`) train in about a minute. The time was 1 minute 4 seconds on two
CPU cores, 2026-11-24.
"""

from ml_collections import ConfigDict

from flaxres.config import default_config, set_model


def get_config(model: str = "resnet-20") -> ConfigDict:
    """Returns the digits experiment for a model name such as 'plain-56'."""
    config = default_config()
    config.name = "digits"
    config.batch_size = 128
    config.num_steps = 300  # 27 epochs of 1,437 images
    config.boundaries = (150, 225)  # at 1/2 and 3/4, as in the paper
    config.log_every = 10
    config.eval_every = 20
    config.checkpoint_every = 100  # several seconds on a CPU
    config.eval_batch_size = 360
    config.dataset.name = "digits"
    config.augment.pad = 0  # strokes reach the edge of the 8x8 images
    config.augment.flip = False  # a mirror image of a digit is not a digit
    return set_model(config, model)
