"""scikit-learn's 8x8 digits: the degradation of plain nets in minutes on a laptop, no download.

python -m flaxres.main --config=configs/digits.py:plain-56 --workdir=runs/digits/plain-56

Expect training errors of about 0, 5, 4 to 22 and 90% for plain-20, 32, 44 and 56, and under 1% for
all four residual nets with seed 0; ResNet-56 has had up to 10% with other seeds. All eight nets
(`make degradation`) took 1 minute 4 seconds on two CPU cores, 2026-11-24.
"""

from flaxres.config import default_config, set_model


def get_config(net: str = "resnet-20"):
    """The digits experiment with the net that `net` names."""
    config = default_config()
    config.name = "digits"
    config.batch_size = 128
    config.num_steps = 300  # 27 epochs of 1,437 images
    config.boundaries = (150, 225)  # one half and three quarters, as in the paper
    config.log_every = 10
    config.eval_every = 20
    config.checkpoint_every = 100  # some seconds on a CPU
    config.eval_batch_size = 360
    config.dataset.name = "digits"
    config.augment.pad = 0  # strokes reach the edge of the 8x8 images
    config.augment.flip = False  # a mirrored digit is no digit
    return set_model(config, net)
