"""Cats and dogs of CIFAR-10: training from scratch, and fine-tuning from the other eight classes.

python -m flaxres.main --config=configs/cifar10_cats_dogs.py:resnet-20 --workdir=runs/cats_dogs/new

Models: those of `configs/cifar10.py`. There are 10,000 training and 2,000 test images; 400 steps of
128 images are 5 epochs. First train the same model on the other eight classes:

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/cats_dogs/eight \
    --config.dataset.classes="('airplane','automobile','bird','deer','frog','horse','ship','truck')"

Then fine-tune it with a new classification head, all layers or (with the last flag) only the head:

python -m flaxres.main --config=configs/cifar10_cats_dogs.py:resnet-20 --workdir=runs/cats_dogs/on \
    --init_from=runs/cats_dogs/eight --config.transfer.new_head=True \
    --config.transfer.frozen="('backbone',)"

`configs/sweeps/transfer.py` runs all of these. Test errors: ResNet-20 from scratch 37.6 %, LeNet-5
from scratch 34.9 %, fine-tuned 21.4 % with all layers trained, 26.0 % with everything before stage
3 frozen and 33.1 % with the backbone frozen. With a frozen backbone a step takes a fifth of the
time, because no gradient is propagated through it. These are means over seeds 0 to 2 after 1,000
steps on the eight classes (boundaries 500 and 750), on the JPEG copy of CIFAR-10 and two CPU cores,
2026-11-24.
"""

from ml_collections import ConfigDict

from flaxres.configs import cifar10


def get_config(model: str = "resnet-20") -> ConfigDict:
    """Returns the experiment for a model name such as 'resnet-20'."""
    config = cifar10.get_config(model)
    config.name = "cifar10_cats_dogs"
    config.dataset.classes = ("cat", "dog")
    config.num_steps = 400
    config.boundaries = (200, 300)  # at 1/2 and 3/4, as in the paper
    config.log_every = 10
    config.eval_every = 50
    config.checkpoint_every = 100
    return config
