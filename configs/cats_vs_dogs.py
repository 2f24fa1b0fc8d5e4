"""Cats and dogs, the TFDS set cats_vs_dogs: 23,262 photographs of many sizes.

python -m flaxres.main --config=configs/cats_vs_dogs.py:resnet-18 --workdir=runs/cats_vs_dogs/new

Nets: lenet-5, on images of 32 pixels, and resnet-18, resnet-50 and the others of
`configs/imagenet.py`, on crops of 224. TFDS has one split, train; its first four fifths are for
training, the rest for testing. To go on from a net of ImageNet, with a new head and a rate that
leaves what it knows in place:

python -m flaxres.main --config=configs/cats_vs_dogs.py:resnet-50 --workdir=runs/cats_vs_dogs/on \
    --init_from=runs/imagenet/resnet-50 --config.transfer.new_head=True \
    --config.learning_rate=0.01 --config.num_steps=2000 --config.boundaries="(1000,1500)"

or with its first stages frozen, --config.transfer.frozen="('conv','norm','stage1','stage2')".
Torchvision's files are of nets with --config.model.stride_on=3x3, and of images that are divided by
a deviation: --config.transfer.image_std="(0.229,0.224,0.225)".
"""

from flaxres.config import default_config, set_model


def get_config(net: str = "resnet-18"):
    """The experiment with the net that `net` names."""
    config = set_model(default_config(), net, stem="imagenet")
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
