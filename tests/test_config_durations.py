import pytest

from flaxres.aliases import rename_fields
from flaxres.config import check_config, default_config, flatten
from flaxres.config_durations import convert_durations
from flaxres.configs import digits
from flaxres.errors import ConfigError
from tests.commands import run_command
from tests.conftest import write_tfds

TRAIN_IMAGES = 1_437  # of the digits


def test_a_config_in_epochs_and_examples():
    config = digits.get_config("resnet-8")
    config.num_steps, config.boundaries = "4ep", ("2ep", "3 epochs")
    config.log_every, config.checkpoint_every, config.warmup.max_steps = "640ex", "1k", "0.5ep"
    check_config(config)
    converted = convert_durations(config)
    assert converted.num_steps == round(4 * TRAIN_IMAGES / 128) == 45
    assert converted.boundaries == (22, 34)
    assert (converted.log_every, converted.checkpoint_every) == (5, 1_000)
    assert converted.warmup.max_steps == 6
    changed = {"num_steps", "boundaries", "log_every", "checkpoint_every", "warmup.max_steps"}
    before, after = flatten(config), flatten(converted)
    assert {field for field in after if before[field] != after[field]} == changed
    assert config.num_steps == "4ep"  # the original stays


def test_configs_in_steps_are_not_copied_and_read_no_data():
    config = digits.get_config("resnet-8")
    config.dataset.name, config.dataset.data_dir = "folder", "/nowhere"
    assert convert_durations(config) is config
    config.num_steps, config.eval_every = "1k", "12_800ex"
    assert convert_durations(config).num_steps == 1_000


def test_epochs_count_the_selected_images(tmp_path):
    """The split has 50 images; 25 of them are in a slice, and fewer have one of two labels."""
    labels = write_tfds(tmp_path)["train"][1]
    config = default_config()
    config.dataset.name, config.dataset.data_dir = "tiny", str(tmp_path)
    config.batch_size, config.num_steps = 1, "2ep"
    assert convert_durations(config).num_steps == 100
    config.dataset.train_split = "train[:50%]"
    assert convert_durations(config).num_steps == 50
    config.dataset.classes = ("0", "2")
    kept = sum(label in (0, 2) for label in labels[:25])
    assert convert_durations(config).num_steps == 2 * kept


def test_converted_values_are_checked():
    config = digits.get_config("resnet-8")
    config.boundaries = ("2ep", "1ep")
    check_config(config)  # without the data, the order is not known
    with pytest.raises(ConfigError, match=r"boundaries must be rising .* got \[22, 11\]"):
        convert_durations(config)
    config.boundaries = (5, "2ep", 3)  # that of the numbers is
    with pytest.raises(ConfigError, match="boundaries must be rising"):
        check_config(config)
    config.boundaries, config.num_steps = (), "0ep"
    with pytest.raises(ConfigError, match="num_steps must be at least 1, got 0"):
        convert_durations(config)


def test_a_converted_config_accepts_durations_again():
    config = digits.get_config("resnet-8")
    config.num_steps = "4ep"
    converted = convert_durations(config)
    converted.num_steps, converted.warmup.window = "2ep", "128ex"
    again = convert_durations(converted)
    assert (again.num_steps, again.warmup.window) == (round(2 * TRAIN_IMAGES / 128), 1)


def test_num_epochs_is_short_for_num_steps():
    config = digits.get_config("resnet-8")
    config.num_epochs = 2
    assert convert_durations(config).num_steps == round(2 * TRAIN_IMAGES / 128)
    assert rename_fields({"seed": 1, "num_epochs": 1.5}) == {"seed": 1, "num_steps": "1.5ep"}
    for value in ("two", True, "2ep"):
        with pytest.raises(ConfigError, match="num_epochs must be a number, such as 164"):
            rename_fields({"num_epochs": value})


def test_command_line(tmp_path):
    flags = ("--config=digits:resnet-8", "--config.batch_size=360", f"--workdir={tmp_path}")
    wrong = run_command("flaxres.main", *flags, "--config.num_steps=abc")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: num_steps must be an integer, or text such as")
    durations = ("--config.num_epochs=1", "--config.boundaries=0.5ep,0.75ep")
    done = run_command("flaxres.main", *flags, "--config.eval_every=360ex", *durations)
    assert done.code == 0, done.stderr
    note = "note: durations in steps: num_steps 4 (1ep); boundaries 2, 3 (0.5ep, 0.75ep); eval_ever"
    assert done.stderr.startswith(note)
    stored = (tmp_path / "config.json").read_text()
    assert '"num_steps": 4,' in stored
    assert '"eval_every": 1,' in stored
