"""CIFAR-10 as in Huang17 (arXiv 1608.06993), section 4.2: 300 epochs of batches of 64.

python -m flaxres.main --config=configs/cifar10_densenet.py:densenet-40-12 --workdir=runs/densenet

Nets: densenet-40-12, densenet-100-12, densenet-bc-100-12 and others of this form, or any net for
CIFAR. Meant for an accelerator. Expect the paper's test errors, table 2, with its augmentation:
DenseNet (L = 40, k = 12) 5.24%, DenseNet-BC (L = 100, k = 12) 4.51%. They have not been measured
with this code. The paper divides by the deviation of each channel too, which batch norm makes
irrelevant but for its epsilon.
"""

from configs import cifar10

STEPS = 234_375  # 300 epochs of 50,000 images


def get_config(net: str = "densenet-40-12"):
    """The paper's experiment with the net that `net` names."""
    config = cifar10.get_config(net)
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
