"""Fields of `config.model` and their default values; importing them does not import JAX."""

from __future__ import annotations

# Fields of `config.model` that only some families read, with their default values. For the other
# families they keep these values. `flaxres.config` has the fields that all families read.
FIELDS: dict[str, object] = {
    "depth": 20,  # number of layers as the papers count it: with weights, on the longest path
    "widths": (16, 32, 64),  # number of filters in each stage
    "stem": "cifar",  # layers before the first stage: of models for CIFAR or for ImageNet
    "block": "basic",  # block: basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1)
    "shortcut": "none",  # option of `flaxres.models.shortcuts`
    "shortcut_scale": 0.5,  # factor of shortcut 'scale'; He16 (arXiv 1603.05027), section 3.1
    "gate_bias": -6.0,  # initial bias of the gated shortcuts; the best one in He16, table 1
    # Dropout rate of shortcut 'dropout' (He16, section 3.1) and of VGG's hidden layers.
    "dropout_rate": 0.5,
    # Dropout rate between the two convolutions of a block in Wide ResNets; 0: no dropout. Zagoruyko
    # and Komodakis 2016 (arXiv 1605.07146), section 3: 0.3 on CIFAR.
    "block_dropout": 0.0,
    # Convolution of a bottleneck that has the stride: 1x1 (He15), 3x3, or auto, which depends on
    # pretrained weights and is 1x1 without (`flaxres.pretrained.stride_on`).
    "stride_on": "1x1",
    "groups": 1,  # groups of a bottleneck's 3x3 convolution: the cardinality of ResNeXt
    "group_width": 0,  # channels of a group in the first stage; 0: widths / groups
    # Probability of dropping the residual branch of the last block in training; that of the others
    # grows linearly with their number (`flaxres.models.stochastic_depth`). 0: no stochastic depth.
    # Huang16 (arXiv 1603.09382): 0.5 for ResNet-110, 0.2 for ResNet-1202.
    "drop_path": 0.0,
    # Images for which a block is dropped together: all of a batch (Huang16), or each by itself
    # (timm). The values are batch and image.
    "drop_path_scope": "batch",
    # Reduction of squeeze-and-excitation in each residual branch: 16 in Hu18 (arXiv 1709.01507).
    # 0: none.
    "se_reduction": 0,
    # Three 3x3 convolutions in the ImageNet stem instead of one of 7x7: He19 (arXiv 1812.01187),
    # section 4.1.
    "deep_stem": False,
    "stem_pool": "max",  # subsampling after the ImageNet stem: max pooling, or a conv with stride 2
    "pool_projections": False,  # average pooling instead of stride in projections: He19, ResNet-D
    # Subsampling after the convolutions that have stride 2 otherwise: none (they keep the stride),
    # average (2x2 means) or blur (Zhang19, arXiv 1904.11486).
    "anti_alias": "none",
    "zero_init": False,  # initialize each residual branch to zero
    # Learnable factor at the end of each residual branch (`flaxres.models.multipliers`): none,
    # scalar (SkipInit, ReZero) or channel (LayerScale).
    "branch_scale": "none",
    # Initial value of that factor: 0 in SkipInit and ReZero, 1e-6 to 0.1 in LayerScale.
    "branch_scale_init": 0.0,
    # Keep only the input of each block for the gradient and recompute the rest. This costs a third
    # more arithmetic and saves two thirds of the memory or more. Not in the papers.
    "remat": False,
    "scan": False,  # run all blocks of a stage except the first as one loop, to compile faster
    "growth_rate": 0,  # channels that each layer of a DenseNet appends
    "compression": 1.0,  # fraction of the channels that a transition of a DenseNet keeps
    "hidden": (),  # outputs of the dense layers before the head, in VGG and LeNet
    "skip": False,  # shortcuts around the last two convolutions of VGG
    # Initial kernels of plain networks: he, delta-orthogonal or dirac
    # (`flaxres.models.initializers`).
    "init": "he",
    # Activation of plain networks: relu or, without a norm, tanh or tailored-relu
    # (`flaxres.models.activations`).
    "activation": "relu",
    # Correlation that unrelated images have after all layers with activation 'tailored-relu'; 0.9
    # in Zhang et al. 2022 (arXiv 2203.08120).
    "tailored_eta": 0.9,
    # Initial factor of the identity in Dirac networks (Zagoruyko and Komodakis 2017, arXiv
    # 1706.00388, section 2).
    "identity_scale": 1.0,
    # Initial factor of the normalized weights in Dirac networks, from the same section.
    "kernel_scale": 0.1,
    # Layers of RepVGG as one convolution with a bias each, as after merging their branches.
    "merged": False,
}
