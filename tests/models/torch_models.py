"""PyTorch models for the tests, with the names and shapes of torchvision's state dicts."""

import torch
from torch import nn
from torch.nn import functional as F

from flaxres.models import densenet, resnet, vgg


def conv(n_in, n_out, size, stride=1, groups=1, bias=False):
    return nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=bias)


class Block(nn.Module):
    """Basic block (`inner` is None) or bottleneck, with shortcut A, B or none.

    Shortcut A has the channels of zeros at the end or, with `padding` 'both-sides', as in the
    widespread option-A models of CIFAR-10, `planes // 4` of them on each side (bottlenecks: half).
    """

    def __init__(self, n_in, n_out, stride, inner, groups, stride_on, option, padding="end"):
        super().__init__()
        if inner is None:
            layers = [(n_in, n_out, 3, stride, 1), (n_out, n_out, 3, 1, 1)]
        else:
            first, second = (1, stride) if stride_on == "3x3" else (stride, 1)
            layers = [(n_in, inner, 1, first, 1), (inner, inner, 3, second, groups)]
            layers.append((inner, n_out, 1, 1, 1))
        self.count = len(layers)
        for i, layer in enumerate(layers, start=1):
            setattr(self, f"conv{i}", conv(*layer))
            setattr(self, f"bn{i}", nn.BatchNorm2d(layer[1]))
        self.stride = stride
        self.padding = (0, n_out - n_in)
        if padding == "both-sides" and n_in != n_out:
            self.padding = ((n_out // 4 if inner is None else (n_out - n_in) // 2),) * 2
        self.option, self.downsample = option, None
        if option == "B" and (stride > 1 or n_in != n_out):
            self.downsample = nn.Sequential(conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        if self.option == "none":
            return F.relu(y)
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.option == "A":
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
        return F.relu(x + y)


class ResNet(nn.Module):
    """torchvision's ResNet and ResNeXt or, with the CIFAR stem, the models of He15."""

    def __init__(self, model, num_classes, padding="end"):
        super().__init__()
        width = model.widths[0]
        is_imagenet = model.stem == "imagenet"
        self.conv1 = nn.Conv2d(3, width, *((7, 2, 3) if is_imagenet else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if is_imagenet else nn.Identity()
        stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
        n_in = width
        for stage, (count, width) in enumerate(zip(stages, model.widths, strict=True)):
            inner, n_out = None, width
            if model.block == "bottleneck":
                inner = model.groups * model.group_width * 2**stage or width
                n_out = 4 * width
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                options = (model.groups, model.stride_on, model.shortcut, padding)
                blocks.append(Block(n_in, n_out, stride, inner, *options))
                n_in = n_out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(stages)
        self.fc = nn.Linear(n_in, num_classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """torchvision's bottleneck layer of a DenseNet."""

    def __init__(self, n_in, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n_in), conv(n_in, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, 3)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """torchvision's DenseNet."""

    def __init__(self, model, num_classes):
        super().__init__()
        n = 2 * model.growth_rate
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, n, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(n))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        stages = densenet.stages_of_depth(model.depth, model.block, model.stem)
        for stage, count in enumerate(stages, start=1):
            block = nn.Sequential()
            for i in range(1, count + 1):
                block.add_module(f"denselayer{i}", DenseLayer(n, model.growth_rate))
                n += model.growth_rate
            self.features.add_module(f"denseblock{stage}", block)
            if stage < len(stages):
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(n))
                transition.add_module("relu", nn.ReLU())
                n_in, n = n, int(n * model.compression)
                transition.add_module("conv", conv(n_in, n, 1))
                transition.add_module("pool", nn.AvgPool2d(2))
                self.features.add_module(f"transition{stage}", transition)
        self.features.add_module("norm5", nn.BatchNorm2d(n))
        self.classifier = nn.Linear(n, num_classes)

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


class Vgg(nn.Module):
    """torchvision's VGG with batch norm; without hidden layers, pooling and one dense layer."""

    def __init__(self, model, num_classes, pixels, bias=False):
        super().__init__()
        layers, n = [], 3
        for count, width in zip(vgg.stages_of_depth(model.depth), model.widths, strict=True):
            for _ in range(count):
                layers += [conv(n, width, 3, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
                n = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.skip, self.hidden = model.skip, len(model.hidden) > 0
        if not self.hidden:
            self.classifier = nn.Linear(n, num_classes)
            return
        n, dense = n * (pixels // 32) ** 2, []
        for width in model.hidden:
            dense += [nn.Linear(n, width), nn.ReLU(), nn.Dropout(model.dropout_rate)]
            n = width
        self.classifier = nn.Sequential(*dense, nn.Linear(n, num_classes))

    def forward(self, x):
        if self.skip:
            *features, conv1, norm1, _, conv2, norm2, _, pool = self.features
            for layer in features:
                x = layer(x)
            x = F.relu(x + norm1(conv1(x))) if x.shape[1] == conv1.out_channels else None
            x = pool(F.relu(x + norm2(conv2(x))))
        else:
            x = self.features(x)
        return self.classifier(x.flatten(1) if self.hidden else x.mean((2, 3)))


def randomize(torch_model):
    """Gives batch norm values as after some training, and returns the model for evaluation."""
    for module in torch_model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return torch_model.eval()


def build(model, num_classes, pixels, padding="end"):
    """Builds the model that `model`, a config's `model`, describes."""
    if model.name == "densenet":
        return DenseNet(model, num_classes)
    if model.name == "vgg":
        return Vgg(model, num_classes, pixels)
    return ResNet(model, num_classes, padding)


class WideBlock(nn.Module):
    """Block of the authors' Wide ResNets (arXiv 1605.07146), without dropout."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n_in), conv(n_in, n_out, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(n_out), conv(n_out, n_out, 3)
        self.shortcut = conv(n_in, n_out, 1, stride) if n_in != n_out else None

    def forward(self, x):
        y = F.relu(self.norm1(x))
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Sequential):
    """Wide ResNet of the authors (arXiv 1605.07146), without dropout."""

    def __init__(self, depth, factor, num_classes):
        n_in, blocks = 16, []
        for stage, width in enumerate((16, 32, 64)):
            for i in range((depth - 4) // 6):
                blocks.append(WideBlock(n_in, factor * width, 2 if stage and not i else 1))
                n_in = factor * width
        head = (nn.BatchNorm2d(n_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(conv(3, 16, 3), *blocks, *head, nn.Linear(n_in, num_classes))

    def load(self, variables):
        """Loads the variables of a `flaxres.models.wide_resnet.WideResNet`."""
        params, stats = variables["params"], variables["batch_stats"]
        blocks = [module for module in self if isinstance(module, WideBlock)]
        names = sorted(name for name in params if name.startswith("stage"))
        tensors = {"0.weight": params["conv"]["kernel"]}
        for number, (name, block) in enumerate(zip(names, blocks, strict=True), start=1):
            for layer, _ in block.named_children():
                values = params[name][layer]
                values = values.get("conv", values)
                tensors |= self._named(f"{number}.{layer}", values, stats[name].get(layer, {}))
        last = len(blocks) + 1
        tensors |= self._named(f"{last}", params["last_norm"], stats["last_norm"])
        tensors |= self._named(f"{last + 4}", params["dense"], {})
        orders = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
        state = self.state_dict()
        for name, value in tensors.items():
            assert name in state
            state[name] = torch.tensor(value).permute(orders[value.ndim])
        self.load_state_dict(state)
        return self

    @staticmethod
    def _named(prefix, params, stats):
        names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
        names |= {"mean": "running_mean", "var": "running_var"}
        return {f"{prefix}.{names[name]}": value for name, value in {**params, **stats}.items()}
