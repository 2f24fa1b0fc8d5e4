"""Cats and dogs: the TFDS data set cats_vs_dogs, 23,262 photographs of many sizes.

python -m flaxres.main --config=configs/cats_vs_dogs.py:resnet-18 --workdir=runs/cats_vs_dogs/new

Models: lenet-5 on images of 32 pixels; resnet-18, resnet-50 and the other models of
`configs/imagenet.py` on crops of 224 pixels. TFDS has only the split train: the first 80 % are the
training set, the rest is the test set.

To fine-tune a model trained on ImageNet, with a new classification head and a lower learning rate:

python -m flaxres.main --config=configs/cats_vs_dogs.py:resnet-50 --workdir=runs/cats_vs_dogs/on \
    --init_from=runs/imagenet/resnet-50 --config.transfer.new_head=True \
    --config.learning_rate=0.01 --config.num_steps=2000 --config.boundaries="(1000,1500)"

To freeze the first stages too, add --config.transfer.frozen="('conv','norm','stage1','stage2')".
Torchvision's weights need --config.transfer.image_std="(0.229,0.224,0.225)", because its models
divide images by a standard deviation. Meant for an accelerator; time and error have not been
measured with this code.
"""

from ml_collections import ConfigDict

from flaxres.config import default_config, set_model


def get_config(model: str = "resnet-18") -> ConfigDict:
    """Returns the experiment for a model name such as 'resnet-18' or 'lenet-5'."""
    config = set_model(default_config(), model, stem="imagenet")
    config.name = "cats_vs_dogs"
    config.batch_size = 64
    config.num_steps = 12_000  # 41 epochs of 18,610 images
    config.boundaries = (6_000, 9_000)
    config.learning_rate = 0.1
    config.eval_every = 500
    config.eval_batch_size = 100
    config.dataset.name = "cats_vs_dogs"
    config.dataset.train_split = "train[:80%]"
    config.dataset.test_split = "train[80%:]"
    if config.model.name == "lenet":
        config.dataset.image_size = 32
        return config
    config.dataset.image_size = 224
    config.dataset.eval_short_side = 256
    config.augment.crop = "random-resized"
    config.augment.pad = 0
    return config
