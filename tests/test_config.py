import pytest
from ml_collections import ConfigDict

from flaxres.config import check_config, default_config, flatten, model_name, set_model
from flaxres.configs import cifar10
from flaxres.errors import ConfigError


def test_the_hyperparameters_of_the_paper():
    """He15 (arXiv 1512.03385), section 4.2."""
    config = cifar10.get_config("resnet-56")
    check_config(config)
    assert (config.batch_size, config.num_steps) == (128, 64_000)
    assert (config.learning_rate, config.boundaries) == (0.1, (32_000, 48_000))
    assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
    assert (config.decay_factor, config.weight_decay_on) == (0.1, "all")
    assert (config.augment.pad, config.augment.flip) == (4, True)
    assert config.model.widths == (16, 32, 64)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("plain-20", ("plain", 20, "none", False)),
        ("resnet-56", ("resnet", 56, "A", False)),
        ("resnet-110", ("resnet", 110, "A", True)),
        ("resnet-20-B", ("resnet", 20, "B", False)),
        ("resnet-1202-C", ("resnet", 1202, "C", True)),
    ],
)
def test_models_by_name(name, fields):
    config = set_model(default_config(), name)
    model = config.model
    assert (model.name, model.depth, model.shortcut, config.warmup.enabled) == fields
    assert model_name(model) == name
    check_config(config)


@pytest.mark.parametrize(
    "name", ["", "resnet", "resnet-", "rsenet-20", "plain-20-A", "resnet-20-D"]
)
def test_names_of_no_model(name):
    with pytest.raises(ConfigError, match=r"model name must be .*resnet-56-B.*, got"):
        set_model(default_config(), name)


def test_flatten():
    flat = flatten(default_config())
    assert flat["model.depth"] == 20
    assert flat["boundaries"] == [32_000, 48_000]
    assert not any(isinstance(value, dict) for value in flat.values())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.depth", 51, r"6n\+2 \(8, 14, 20, .*\), got 51; did you mean 'resnet-50' or"),
        ("model.depth", 2, r"depth must be 6n\+2 .*, got 2"),
        ("model.shortcut", "D", "model.shortcut must be one of A, B, C, none, .*, got 'D'"),
        ("model.shortcut", "none", "model.shortcut must be A, B, C, .* for a residual model"),
        ("model.name", "rsenet", "model.name must be one of plain, resnet, .*, got 'rsenet'"),
        ("model.norm", "bn", "model.norm must be one of batch, .*, got 'bn'"),
        ("model.widths", (64, 32, 16), "model.widths must be non-decreasing"),
        ("model.widths", (16, 32), "model.widths must be three positive numbers"),
        ("dtype", "float16", "dtype must be one of float32, bfloat16, got 'float16'"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("log_every", 0, "log_every must be at least 1"),
        ("seed", -1, "seed must be from 0"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
        ("momentum", 1.0, "momentum must be at least 0 and below 1"),
        ("augment.pad", -1, "augment.pad must be 0 or more"),
        ("boundaries", (5, 5), "boundaries must be rising"),
        ("boundaries", (0, 5), "boundaries must be rising numbers of steps"),
        ("boundaries", (1.5,), r"boundaries must be a tuple of integers, such as \(1, 2\)"),
        ("model.widths", (16.5, 32, 64), "model.widths must be a tuple of integers"),
        ("model.widths", (0, 32, 64), "model.widths must be three positive numbers"),
        ("weight_decay_on", "none", "weight_decay_on must be one of all, kernels"),
        ("warmup.train_error", 100.0, "warmup.train_error must be a percentage"),
        (
            "schedule",
            "steps",
            "schedule must be one of piecewise-constant, cosine, polynomial, .*, got 'steps'",
        ),
        ("linear_warmup_steps", -1, "linear_warmup_steps must be 0 or more, got -1"),
        ("linear_warmup_steps", 64_000, r"linear_warmup_steps must be below num_steps \(64000\)"),
        ("label_smoothing", 1.0, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ("augment.color", -0.1, "augment.color must be 0 or more, got -0.1"),
        ("augment.color_eigenvalues", (1.0,), "augment.color_eigenvalues must be 3 numbers"),
        (
            "augment.color_eigenvectors",
            ("a",) * 9,
            "augment.color_eigenvectors must be a tuple of n",
        ),
        (
            "transfer.new_head",
            True,
            r"transfer.new_head must be False without pretrained weights .*init_from",
        ),
        (
            "transfer.backbone_learning_rate_scale",
            0.0,
            "transfer.backbone_learning_rate_scale must be above 0, got 0.0",
        ),
        ("transfer.image_std", (0.2, 0.0), r"transfer.image_std must be numbers above 0"),
        (
            "transfer.image_std",
            (0.2,),
            r"transfer.image_std must be \(\) without pretrained weights .*init_from",
        ),
        ("transfer.frozen", ("",), r"transfer.frozen must be names of stages and layers, .*\[''\]"),
    ],
)
def test_invalid_values(field, value, message):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message) as raised:
        check_config(config)
    assert "\n" not in str(raised.value)


def test_remat_is_true_or_false():
    model = default_config().model.to_dict() | {"remat": "blocks"}
    config = ConfigDict(default_config().to_dict() | {"model": model})
    with pytest.raises(ConfigError, match=r"model\.remat must be true or false, got 'blocks'"):
        check_config(config)


def test_a_run_has_one_warm_up_and_nesterov_needs_momentum():
    config = set_model(default_config(), "resnet-110")
    config.linear_warmup_steps = 400
    message = (
        "linear_warmup_steps must be 0 if warmup.enabled is True; a run has one warm-up, got 400"
    )
    with pytest.raises(ConfigError, match=message):
        check_config(config)
    config.warmup.enabled = False
    check_config(config)
    config.nesterov, config.momentum = True, 0.0
    with pytest.raises(ConfigError, match="nesterov must be False if momentum is 0, got True"):
        check_config(config)


def test_plain_networks_have_no_shortcut():
    config = set_model(default_config(), "plain-20")
    config.model.shortcut = "A"
    with pytest.raises(ConfigError, match="must be none for a plain model, got 'A'"):
        check_config(config)


def test_unknown_and_missing_fields():
    config = default_config()
    config.model.detph = 20
    with pytest.raises(
        ConfigError, match=r"unknown config field 'model\.detph'; did you mean 'model\.depth'\?"
    ):
        check_config(config)
    config = default_config()
    del config.momentum
    with pytest.raises(ConfigError, match="config field 'momentum' is missing"):
        check_config(config)


def test_fixup_has_a_lower_learning_rate_of_scalars():
    assert set_model(default_config(), "fixup-56").scalar_learning_rate_scale == 0.1
    assert set_model(default_config(), "resnet-56").scalar_learning_rate_scale == 1
