"""Reference of config fields: descriptions from comments, rules from the checks."""

import ast
import functools
from pathlib import Path

import pytest

from flaxres.config import check_config, default_config, flatten, set_model
from flaxres.errors import ConfigError
from tests.conftest import ROOT
from tools.docs.field_comments import FieldComment, field_comments
from tools.docs.field_rules import record_rules
from tools.docs.fields_page import fields_page

recorded = functools.cache(record_rules)
CHECKS = (*("flaxres/config_checks.py", "flaxres/data/options.py", "flaxres/models/fields.py"),)
CHECK_CALLS = ("require", "require_one_of", "_require", "_require_one_of", "_check_widths")


def test_every_field_has_a_description_and_a_section():
    comments = field_comments()
    for field in flatten(default_config()):
        comment = comments.get(field, FieldComment("", "", "", 0))
        message = f"write a comment beside or above config.{field} in flaxres/config_fields.py"
        assert len(comment.text.split()) >= 2, message
        assert comment.section, field


def test_comments_of_known_fields():
    comments = field_comments()
    assert comments["dtype"].text.startswith("dtype of activations, float32 or bfloat16")
    assert comments["linear_warmup_steps"].sources == ["Goyal 2017, arXiv 1706.02677, section 2.2"]
    assert comments["nesterov"].sources == ["Huang17 (arXiv 1608.06993), section 4.2"]
    assert comments["warmup.window"].sources == ["not in the paper"]
    assert comments["augment.crop"].section == "Augmentation"
    assert comments["model.gate_bias"].file == "flaxres/models/fields.py"
    line = (ROOT / "flaxres/config_fields.py").read_text().splitlines()[comments["seed"].line - 1]
    assert line.strip().startswith("config.seed = 0")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 1.0),
        ("schedule", "linear"),
        ("warmup.train_error", 100.0),
        ("dataset.workers", -2),
        ("augment.area_range", (0.5, 0.1)),
        ("model.norm", "bath"),
        ("model.widths", (16, 32)),
        ("model.dropout_rate", 1.0),
        ("label_smoothing", "much"),
        ("seed", 1.5),
    ],
)
def test_rules_are_those_of_the_error_messages(field, value):
    config = set_model(default_config(), "resnet-20")
    group, _, name = field.rpartition(".")
    target = config[group] if group else config
    with target.ignore_type():
        target[name] = value
    with pytest.raises(ConfigError) as error:
        check_config(config)
    recording = recorded()
    rules = [recording.types[field], *(rule.text for rule in recording.rules.get(field, []))]
    expected = [f"{field} must be {rule}, got " for rule in rules]
    assert any(str(error.value).startswith(text) for text in expected), (error.value, expected)


def test_every_check_is_recorded():
    lines = {}
    for file in CHECKS:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in CHECK_CALLS:
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    lines[str(ROOT / file), line] = (file, node.lineno)
    reached = {(str(Path(file).resolve()), line) for file, line in recorded().sites}
    missing = set(lines.values()) - {call for site, call in lines.items() if site in reached}
    assert not missing, "add a config that reaches these checks to example_configs: " + str(missing)


def test_the_page_has_every_field_with_type_default_and_rule():
    page = fields_page()
    for field, default in flatten(default_config()).items():
        start = page.index(f"### `{field}` {{ #{field} }}")
        entry = page[start : page.index("</table>", start)]
        assert "<th>Type</th>" in entry
        assert "<th>Default</th>" in entry
        assert str(default) in entry or isinstance(default, list | float | str)
    start = page.index("### `model.stride_on`")
    assert "one of <code>1x1</code>, <code>3x3</code>, <code>auto</code>" in page[start:]
