"""CIFAR-10 as in Huang17 (arXiv 1608.06993), section 4.2: 300 epochs with batches of 64.

python -m flaxres.main --config=configs/cifar10_densenet.py:densenet-40-12 --workdir=runs/densenet

Models: densenet-40-12, densenet-100-12, densenet-bc-100-12 and others of this form, or any CIFAR
model. Expect the test errors of the paper's table 2 with augmentation: DenseNet (L = 40, k = 12)
5.24 %, DenseNet-BC (L = 100, k = 12) 4.51 %. The paper also divides images by the standard
deviation of each channel; except for its epsilon, batch norm makes this irrelevant. Meant for an
accelerator; time and errors have not been measured with this code.
"""

from ml_collections import ConfigDict

from flaxres.configs import cifar10

STEPS = 234_375  # 300 epochs of 50,000 images


def get_config(model: str = "densenet-40-12") -> ConfigDict:
    """Returns the paper's experiment for a model name such as 'densenet-40-12'."""
    config = cifar10.get_config(model)
    config.name = "cifar10_densenet"
    config.batch_size = 64
    config.num_steps = STEPS
    config.learning_rate = 0.1
    config.boundaries = (STEPS // 2, STEPS * 3 // 4)
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 1e-4
    config.dataset.mean = "channel"
    return config
