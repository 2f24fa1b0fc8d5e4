"""Former names of fields, values and flags are accepted everywhere, with one notice each."""

import json

import pytest

from flaxres import aliases, errors
from flaxres.config import check_config, default_config, flatten, net_name, set_net
from flaxres.experiments.sweeps.plan import make_plans
from flaxres.overrides import load_config
from flaxres.run.workdir import check_same_config, read_config, read_run_config


@pytest.fixture(autouse=True)
def _no_notices_yet(monkeypatch):
    monkeypatch.setattr(errors, "_printed", set())


def test_current_names_are_fields_and_former_names_are_not():
    known = flatten(default_config())
    assert set(aliases.FIELDS.values()) | set(aliases.VALUES) <= known.keys()
    assert not aliases.FIELDS.keys() & known.keys()


def test_a_flattened_config(capsys):
    former = {
        "seed": 1,
        "augment.colour": 0.1,
        "schedule": "drops",
        "transfer.frozen": ["conv", "body"],
        "augment.crop": "area",
    }
    assert aliases.rename_fields(former) == {
        "seed": 1,
        "augment.color": 0.1,
        "schedule": "piecewise-constant",
        "transfer.frozen": ["conv", "backbone"],
        "augment.crop": "random-resized",
    }
    aliases.rename_fields(former)
    assert capsys.readouterr().err.splitlines() == [
        "note: the config field 'augment.colour' is now called 'augment.color'",
        "note: the value of schedule 'drops' is now called 'piecewise-constant'",
        "note: the value of transfer.frozen 'body' is now called 'backbone'",
        "note: the value of augment.crop 'area' is now called 'random-resized'",
    ]


def test_current_names_are_unchanged(capsys):
    fields = flatten(default_config())
    assert aliases.rename_fields(fields) == fields
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config.augment.colour=0.1"], ["--config.augment.color=0.1"]),
        (["-config.transfer.body_rate", "0.1"],
         ["-config.transfer.backbone_learning_rate_scale", "0.1"]),
        (["--config.transfer.frozen=('body',)"], ["--config.transfer.frozen=('backbone',)"]),
        (["--config.schedule", "drops"], ["--config.schedule", "piecewise-constant"]),
        (["--nets=plain-20,resnet-20"], ["--models=plain-20,resnet-20"]),
        (["--protocol=centre"], ["--test_crops=center"]),
        (["identity", "--rate_factors=1,0.1"], ["identity", "--learning_rate_factors=1,0.1"]),
        (["--workdir=runs/body", "--images=area/*.jpg"],
         ["--workdir=runs/body", "--images=area/*.jpg"]),
        (["--config=configs/digits.py:resnet-20"], ["--config=configs/digits.py:resnet-20"]),
        (["--", "--nets=plain-20"], ["--", "--nets=plain-20"]),
        (["responses", "--workdir", "centre"], ["responses", "--workdir", "centre"]),
    ],
)  # fmt: skip
def test_command_lines(given, expected):
    assert aliases.rename_in_arguments(given) == expected


CONFIG = """
from flaxres.config import default_config, set_net

def get_config(net="resnet-8"):
    config = set_net(default_config(), net)
    config.schedule = "drops"
    config.augment.colour = 0.25
    config.transfer.frozen = ("body",)
    return config
"""


def test_a_reference_of_a_config_file_keeps_its_links():
    config = default_config()
    config.augment.colour = config.get_ref("label_smoothing")
    config.lock()
    aliases.rename_in_config(config)
    config.update_from_flattened_dict({"augment.color": 0.5})
    assert (config.augment.color, config.label_smoothing) == (0.5, 0.5)


def test_config_files(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    config = load_config(str(path), {})
    assert config.schedule == "piecewise-constant"
    assert config.augment.color == 0.25
    assert "colour" not in config.augment
    assert config.transfer.frozen == ("backbone",)


def test_sweep_entries():
    entry = {
        "name": "slow/seed-0",
        "config": "configs/digits.py:resnet-8",
        "overrides": {"transfer.body_rate": 0.5, "schedule": "drops"},
    }
    (plan,) = make_plans([entry], {"num_steps": 200})
    assert plan.config.transfer.backbone_learning_rate_scale == 0.5
    assert plan.config.schedule == "piecewise-constant"


def test_config_json_of_an_older_run(tmp_path):
    fields = default_config().to_dict()
    fields["augment"]["colour"] = fields["augment"].pop("color")
    fields["schedule"] = "drops"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(tmp_path) == flatten(default_config())
    assert check_same_config(tmp_path, default_config())
    check_config(read_run_config(tmp_path))


def test_a_command_with_former_names(python, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.replace("0.25", "0.0"))
    done = python(
        *("-m", "flaxres.main", f"--config={tmp_path / 'config.py'}", "--mode=summary"),
        *("--config.dataset.name=digits", "--config.augment.colour=0.0", "--nets=resnet-8"),
    )
    assert done.returncode == 0, done.stderr
    assert "resnet-8" in done.stdout
    for former, current in (("augment.colour", "augment.color"), ("nets", "models")):
        assert done.stderr.count(f"{former!r} is now called {current!r}") == 1


def test_a_file_of_an_older_run_gets_one_notice(tmp_path, capsys):
    old = {"augment.colour": 0.1, "transfer.std": [], "schedule": "drops"}
    new = {"augment.color": 0.1, "transfer.image_std": [], "schedule": "piecewise-constant"}
    path = tmp_path / "config.json"
    assert aliases.rename_fields(old, path) == new
    assert aliases.rename_fields(old, tmp_path / "other.json") == new
    assert capsys.readouterr().err == (
        f"note: {path} has former names of config fields, such as 'augment.colour' for "
        "'augment.color'; flaxres/aliases.py lists them\n"
    )


def test_former_functions_of_config_files():
    config = set_net(config=default_config(), net="resnet-14")
    assert net_name(config.model) == "resnet-14"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config.augment.colour = config.augment.colour + 0.1",
            "the config field 'augment.colour' is now called 'augment.color'",
        ),
        (
            "config.augment.short_side = 256",
            "augment.short_side_range must be like (256, 480), got 256",
        ),
    ],
)
def test_config_files_that_cannot_be_translated_are_one_line(python, tmp_path, line, message):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("config.augment.colour = 0.25", line))
    done = python("-m", "flaxres.main", f"--config={path}", "--mode=summary")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]


def test_former_names_in_a_file_of_flags(python, tmp_path):
    (tmp_path / "flags").write_text("--nets=resnet-8\n--config.augment.colour=0.0\n")
    done = python(
        *("-m", "flaxres.main", "--config=configs/digits.py", "--mode=summary"),
        f"--flagfile={tmp_path / 'flags'}",
    )
    assert done.returncode == 0, done.stderr
    assert "models on digits" in done.stdout
    done = python("-m", "flaxres.main", f"--flagfile={tmp_path / 'absent'}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
