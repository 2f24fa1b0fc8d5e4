"""Descriptions of config fields, read from the comments in the source."""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG_FILE = ROOT / "flaxres" / "config_fields.py"
MODEL_FIELDS_FILE = ROOT / "flaxres" / "models" / "fields.py"

# A paper, with its arXiv number and the place in it: "Goyal 2017, arXiv 1706.02677, section 2.2".
_CITATION = re.compile(
    r"\b[A-Z][a-z]+(?: and [A-Z][a-z]+)? ?(?:\d{4}|\d{2})\b(?: \(arXiv [\d.]+\d\))?"
    r"(?:, arXiv [\d.]+\d)?(?:, (?:section|table|figure)s? [\d.]*\d)*"
    r"|github\.com/\S+\w|[Nn]ot in the papers?"
)


@dataclasses.dataclass(frozen=True)
class FieldComment:
    """Comment of one config field.

    Attributes:
      text: the comment, without line breaks.
      section: heading of the group of fields, such as 'Data set'.
      file: source file, relative to the repository.
      line: line of the assignment, from 1.
    """

    text: str
    section: str
    file: str
    line: int

    @property
    def sources(self) -> list[str]:
        """Papers and addresses that the comment names."""
        return [source.removeprefix("of ") for source in _CITATION.findall(self.text)]


def field_comments() -> dict[str, FieldComment]:
    """Returns the comment of every config field, by dotted name, in the order of the source.

    A field without a comment has an empty text.
    """
    comments = _model_comments()
    config = _config_comments()
    return {**config, **{name: comment for name, comment in comments.items() if name not in config}}


def _config_comments() -> dict[str, FieldComment]:
    """Returns the comments of the assignments to `config.FIELD` in `default_config`."""
    source = _Source(CONFIG_FILE)
    tree = ast.parse(source.text)
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    body = next(node for node in functions if node.name == "default_config").body
    section, fields = "", {}
    for node in body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
            continue
        section = source.heading_above(node) or section
        name = ast.unparse(node.targets[0]).removeprefix("config.")
        is_group = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "ConfigDict"
        if not is_group:
            fields[name] = source.comment(node, section)
    return fields


def _model_comments() -> dict[str, FieldComment]:
    """Returns the comments of the entries of `FIELDS` of the models."""
    source = _Source(MODEL_FIELDS_FILE)
    for node in ast.parse(source.text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "FIELDS" for target in targets):
            dictionary = node.value  # type: ignore[attr-defined]
            return {
                f"model.{key.value}": source.comment(
                    key, "Model: fields that only some families read", value.end_lineno
                )
                for key, value in zip(dictionary.keys, dictionary.values, strict=True)
            }
    raise LookupError(f"{MODEL_FIELDS_FILE} has no FIELDS")


class _Source:
    """A source file and its comments by line."""

    def __init__(self, file: Path):
        self.text = file.read_text()
        self._file = str(file.relative_to(ROOT))
        self._lines = self.text.splitlines()
        self._comments: dict[int, str] = {}  # line -> comment
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                self._comments[token.start[0]] = token.string.lstrip("# ")

    def comment(
        self, node: ast.stmt | ast.expr, section: str, end: int | None = None
    ) -> FieldComment:
        """Returns the comment beside a node, or otherwise the one directly above it."""
        last = end or node.end_lineno or node.lineno
        beside = [self._comments.get(line, "") for line in range(node.lineno, last + 1)]
        text = " ".join(filter(None, beside)) or self._above(node)
        return FieldComment(text, section, self._file, node.lineno)

    def heading_above(self, node: ast.stmt) -> str:
        """Returns the heading above the first field of a group, or '' for other fields.

        A heading is one comment line after an empty line, above a field with a comment of its own
        or above a `ConfigDict()`.
        """
        lines = self._lines_above(node)
        if not lines or self._lines[lines[0] - 2].strip():
            return ""
        is_group = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        has_own = node.lineno in self._comments
        if not (has_own or (is_group and "placeholder" not in ast.unparse(node))):
            return ""
        return re.split(r"[:(.]", self._above(node))[0].strip()

    def _lines_above(self, node: ast.stmt | ast.expr) -> list[int]:
        first = node.lineno
        while self._is_comment_line(first - 1):
            first -= 1
        return list(range(first, node.lineno))

    def _is_comment_line(self, line: int) -> bool:
        return line in self._comments and self._lines[line - 1].lstrip().startswith("#")

    def _above(self, node: ast.stmt | ast.expr) -> str:
        return " ".join(self._comments[line] for line in self._lines_above(node))
