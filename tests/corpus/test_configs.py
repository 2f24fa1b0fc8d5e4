"""Config files, model names and overrides that cannot be used: one line each, nothing written."""

import os

import pytest

from tests.commands import assert_error, run_command

DIGITS = "--config=configs/digits.py:resnet-8"
IMPORTS = (
    "import numpy as np\nfrom ml_collections import ConfigDict, FrozenConfigDict\n"
    "from configs import digits\n"
)

# Text of a config file, parts of the message.
FILES = [
    ("def get_config(m=None): pass", ("must return a ConfigDict", "got None; is its return")),
    ("def get_config(m=None): return 5", ("must return a ConfigDict", "got 5")),
    ("def get_config(m=None): return {'seed': 1}", ("must return a ConfigDict", "{'seed': 1}")),
    ("def get_config(m=None): return ConfigDict({'a': 1})", ("config", "field", "'")),
    ("def get_config(m=None): raise KeyError('x')", ("fails: KeyError: 'x'",)),
    ("def get_config(m=None): open('/nowhere')", ("fails: FileNotFoundError", "/nowhere")),
    ("def get_config(m=None): import sys; sys.exit()", ("fails: SystemExit",)),
    ("def get_config(m=None): return digits.get_config('resnet-21')", ("model resnet-21: depth",)),
    ("def get_config(m=None): c = digits.get_config(); c.batch_size = np.int64(5)", ("TypeError",)),
    ("def get_config(m=None): c = digits.get_config(); c.momentum = 10**400", ("OverflowError",)),
    ("def get_config(m=None): c = digits.get_config(); c.model = 5; return c", ("'model",)),
    (
        "class Bad(BaseException):\n  def __str__(self): return 1 / 0\n"
        "def get_config(m=None): raise Bad",
        ("fails: Bad: Bad",),
    ),
    ("def get_config(m=None): raise GeneratorExit", ("fails: GeneratorExit",)),
    (
        "def get_config(m=None): c = digits.get_config(); c.model.me = c.model; return c",
        ("returns a config whose field 'me' contains itself",),
    ),
    (
        "def get_config(m=None): return FrozenConfigDict(digits.get_config())",
        ("got a FrozenConfigDict; return ConfigDict(config)",),
    ),
    ("def get_config(:", ("fails: SyntaxError: invalid syntax", "line 4")),
    ("import sys; sys.exit(0)", ("fails: SystemExit: 0",)),
    ("raise SystemExit('no')", ("fails: SystemExit: no",)),
    ("x = 1", ("has no get_config()",)),
    (b"\xff\xfe", ("fails: SyntaxError", "utf-8")),
    (
        "def get_config(m=None): raise ValueError('a\\nb\\n\\n' * 100)",
        ("fails: ValueError: a b a",),
    ),
]
OVERRIDES = [
    ("seed=1e3", "seed must be an integer, got '1e3'"),
    ("seed=", "seed must be an integer, got ''"),
    ("seed=-1", "seed must be from 0 to 2**31 - 1, got -1"),
    ("seed=99999999999999999999", "seed must be an integer of 64 bits"),
    ("seed=" + "9" * 5000, "--config.seed=9999"),
    ("sed=1", "unknown config field 'sed'; did you mean 'seed'?"),
    ("learning_rate=nan", "learning_rate must be a finite number below 3.4e38, got nan"),
    ("learning_rate=1e400", "learning_rate must be a finite number below 3.4e38, got inf"),
    ("learning_rate=-0.0", "learning_rate must be above 0, got -0.0"),
    ("learning_rate=fast", "learning_rate must be a number, got 'fast'"),
    ("batch_size=True", "batch_size must be an integer, got 'True'"),
    ("batch_size=1.0", "batch_size must be an integer, got '1.0'"),
    ("batch_size=1000000000000", "lower batch_size, which is 1,000,000,000,000"),
    ("num_steps=forty", "error: num_steps must be an integer, or text such as"),
    ("learning_rate=x", "error: learning_rate must be a number, got 'x'"),
    ("augment.flip=2", "augment.flip must be true or false, got '2'"),
    ("boundaries=(1,", "boundaries"),
    ("boundaries=('a',)", "boundaries must be a tuple of integers, such as (1, 2), or of text"),
    ("boundaries=None", "boundaries must be a tuple of integers"),
    ("model=5", "--config.model=5"),
    ("model={}", "config field 'model."),
    ("augment=None", "--config.augment=None"),
    ("model.depth.x=3", "unknown config field 'model.depth.x'; did you mean 'model.depth'?"),
    ("model.deph=8", "unknown config field 'model.deph'; did you mean 'model.depth'?"),
    ("model.name=alexnet", "model.name must be one of plain, resnet, "),
    ("model.name=rsenet", "got 'rsenet'; did you mean 'resnet'?"),
    ("model.shortcut=D", "got 'D'"),
    ("=3", "unknown config field ''"),
    ("5=3", "unknown config field '5'"),
    ("model.widths[0]=3", "unknown config field 'model.widths[0]'; did you mean 'model.widths'?"),
    ("model.widths=(16,32,100000000)", "lower model.widths; its largest value is 100,000,000"),
    ("num_replicas=1000000", "lower num_replicas, which is 1,000,000"),
    ("model.depth=60000002", "model.depth must be at most 100,000, got 60000002"),
    ("dataset.image_size=100000", "dataset.image_size must be from 0 to 65,535 pixels"),
    ("dataset.image_size=60000", "lower dataset.image_size, which is 60,000"),
    ("init_from=", "init_from must be a file or a run directory, or None, got ''"),
    ("init_from=~nosuch/x", "~nosuch is no known home directory"),
    ("dataset.name=", "dataset.name must be text that is not empty"),
    ("dtype=FLOAT32", "dtype must be one of float32, bfloat16, got 'FLOAT32'"),
    ("keep_checkpoints=1000000000000", "keep_checkpoints must be at most 2**31 - 1"),
    ("log_every=100000000000000000000", "log_every must be an integer of 64 bits"),
    ("steps_per_dispatch=9999999999", "steps_per_dispatch must be at most 2**31 - 1"),
]
MODELS = [
    ("", "model name must be FAMILY-DEPTH"),
    ("rsenet-20", "got 'rsenet-20'; did you mean 'resnet-20'?"),
    ("resnet56", "got 'resnet56'; did you mean 'resnet-56'?"),
    ("r\u00e9snet-20", "did you mean 'resnet-20'?"),
    ("resnet-\u0662\u0660", "model name must be"),  # Arabic digits
    ("resnet-21", "model resnet-21: depth must be 6n+2 (8, 14, 20, 26, ...), got 21"),
    ("resnet-60000002", "model.depth must be at most 100,000, got 60000002"),
    ("resnet-" + "9" * 5000, "model name must be"),
    ("resnet-20\n", r"got 'resnet-20\n'"),
    ("vgg-12", "model vgg-12: depth must be 11, 13, 16, 19, got 12"),
    ("densenet-41-12", "model densenet-41-12: depth must be 3n+4"),
    ("resnext-29-0x64d", "model.groups must be a positive number of groups, got 0"),
]


def test_config_files(tmp_path):
    path, workdir = tmp_path / "mine.py", tmp_path / "run"
    for content, parts in FILES:
        is_text = isinstance(content, str)
        path.write_bytes((IMPORTS + content).encode() if is_text else content)
        for override in ((), ("--config.seed=1",))[: 2 if "return" in str(content) else 1]:
            outcome = run_command(
                "flaxres.main", f"--config={path}", *override, f"--workdir={workdir}"
            )
            assert_error(outcome, *parts, code=2)
    assert not workdir.exists()


def test_paths_of_config_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "directory.py").mkdir()
    (tmp_path / "dangling.py").symlink_to("nowhere.py")
    for path, part in (
        (tmp_path / "missing.py", "missing.py' does not exist; give --config=FILE.py:MODEL"),
        (tmp_path / "dangling.py", "does not exist"),
        (tmp_path / "fifo.py", "fifo.py' is not a regular file"),
        (tmp_path / "directory.py", "directory.py' is a directory"),
        ("/dev/zero", "'/dev/zero' is not a regular file"),
        ("", "the path of the config file is empty"),
        ("~nosuch/x.py", "does not exist"),
        ("x" * 300, "cannot be read (File name too long)"),
        (os.fsdecode(b"\xff.py"), "does not exist"),
    ):
        outcome = run_command("flaxres.main", f"--config={path}", f"--workdir={tmp_path / 'run'}")
        assert_error(outcome, part, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("half", [0, 1])
def test_overrides(tmp_path, half):
    for override, part in OVERRIDES[half::2]:
        outcome = run_command(
            "flaxres.main", DIGITS, f"--config.{override}", f"--workdir={tmp_path / 'run'}"
        )
        assert_error(outcome, part, code=2)
    assert not (tmp_path / "run").exists()


def test_model_names():
    for name, part in MODELS:
        outcome = run_command("flaxres.main", f"--config=configs/digits.py:{name}")
        assert_error(outcome, part, code=2)


def test_none_is_no_path():
    flags = ("--config.init_from=None", "--config.transfer.new_head=True", "--mode=summary")
    outcome = run_command("flaxres.main", DIGITS, *flags)
    assert_error(outcome, "transfer.new_head must be False without pretrained weights", code=2)
