"""Cats and dogs of CIFAR-10, from scratch and from a net of the other eight classes: 400 steps.

python -m flaxres.main --config=configs/cifar10_cats_dogs.py:resnet-20 --workdir=runs/cats_dogs/new

10,000 images for training and 2,000 for testing; 400 steps of 128 are 5 epochs. The net to begin
with is one of the same depth that has seen neither class:

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/cats_dogs/eight \
    --config.dataset.classes="('airplane','automobile','bird','deer','frog','horse','ship','truck')"

and what is done with it, with a new head, is to train all layers, or the head alone:

python -m flaxres.main --config=configs/cifar10_cats_dogs.py:resnet-20 --workdir=runs/cats_dogs/on \
    --init_from=runs/cats_dogs/eight --config.transfer.new_head=True
    (and --config.transfer.frozen="('backbone',)")

`configs/sweeps/transfer.py` has all of these. Measured with seeds 0 to 2 on the JPEG copy of
CIFAR-10, on two CPU cores, 2026-11-24, with 1,000 steps for the net to begin with (boundaries 500
and 750): test errors of 37.6% for ResNet-20 from scratch, 34.9% for LeNet-5 from scratch, and, from
the eight classes, 21.4% with all layers trained, 26.0% with all before stage 3 frozen, 33.1% with
the body frozen. A step with that body takes a fifth of the time, as nothing is propagated back
through it.
"""

from configs import cifar10


def get_config(net: str = "resnet-20"):
    """The experiment with the net that `net` names."""
    config = cifar10.get_config(net)
    config.name = "cifar10_cats_dogs"
    config.dataset.classes = ("cat", "dog")
    config.num_steps = 400
    config.boundaries = (200, 300)  # one half and three quarters, as in the paper
    config.log_every = 10
    config.eval_every = 50
    config.checkpoint_every = 100
    return config
