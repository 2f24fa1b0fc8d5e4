import pytest

from flaxres.aliases import rename_in_arguments
from flaxres.config import check_config, default_config
from flaxres.durations import to_steps
from flaxres.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("300", 300),
        ("10k steps", 10_000),
        ("1_000 steps", 1_000),
        ("1.5M", 1_500_000),
        ("1ep", 100),
        ("1.5 epochs", 150),
        ("0.254ep", 25),  # 25.4
        ("0.255ep", 26),  # 25.5: halves are rounded up
        ("0.0001ep", 1),  # at least one step
        ("0ep", 0),
        ("800ex", 100),
        ("1_000_000 examples", 125_000),
        ("1k images", 125),
    ],
)
def test_conversion_by_hand(text, steps):
    assert to_steps(text, batch_size=8, num_images=800) == steps


@pytest.mark.parametrize(
    "text", ["abc", "1e", "-1ep", "", "1 parsec", "1.ep", "ep", "1,5ep", "9" * 5_000]
)
def test_text_that_is_no_duration_is_refused(text):
    config = default_config()
    config.eval_every = text
    with pytest.raises(ConfigError, match="eval_every must be an integer, or text such as '10k st"):
        check_config(config)
    config = default_config()
    config.boundaries = (1, text)
    with pytest.raises(ConfigError, match="boundaries must be a tuple of integers, such as"):
        check_config(config)


def test_arguments():
    assert rename_in_arguments(
        [
            *("--config.num_epochs=3", "--config.num_epochs", "4"),
            *("--config.boundaries=(1ep, 20)", "--config.boundaries", "3ep"),
            *("--config.boundaries=(1,2)", "--config.boundaries=('1ep',)", "--seed", "3"),
        ]
    ) == [
        *("--config.num_steps=3ep", "--config.num_steps", "4ep"),
        *("--config.boundaries=('1ep',20,)", "--config.boundaries", "('3ep',)"),
        *("--config.boundaries=(1,2)", "--config.boundaries=('1ep',)", "--seed", "3"),
    ]


@pytest.mark.parametrize("other", ["--config.num_steps=5", "--config.num_steps"])
def test_the_length_is_given_once(other):
    with pytest.raises(ConfigError, match="num_epochs and num_steps are both given; give one"):
        rename_in_arguments(["--config.num_epochs=3", other])
    rename_in_arguments(["--config.num_epochs=3", "--", other])
