"""Links of the documentation, and its snippets."""

import ast
import re
import shlex

import pytest

from flaxres.config import default_config, flatten
from flaxres.durations import EPOCHS
from tests.conftest import ROOT
from tools.docs.commands import installed_names
from tools.docs.links import PAGES, is_external, links, rewrite_links

FILES = sorted({*PAGES, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))})
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def anchors(text):
    """Returns the anchors of a Markdown file's headings, as Git hosts and the site make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {name.replace(" ", "-") for name in names}


@pytest.mark.parametrize("file", FILES)
def test_links_lead_to_files_and_headings(file):
    for target in links((ROOT / file).read_text()):
        path, _, anchor = target.partition("#")
        if is_external(target):
            continue
        linked = (ROOT / file).parent / path if path else ROOT / file
        assert linked.exists(), f"{file} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{file} links to {target}: no heading"


def test_rewritten_links():
    text = "[a](../results/README.md#x) `[b](c)` ![d](analyses/blocks.png) [e](https://x.org)\n"
    text += "```\n[f](g.md)\n```\n[`h`](../flaxres/cli.py) [i](../flaxres/config_fields.py)"
    rewritten, used = rewrite_links(text, "docs/running.md")
    assert rewritten == (
        "[a](results.md#x) `[b](c)` ![d](analyses/blocks.png) [e](https://x.org)\n"
        "```\n[f](g.md)\n```\n`h` (`flaxres/cli.py`) [i](reference/fields.md)"
    )
    assert used == {"results/README.md", "docs/analyses/blocks.png"}
    assert rewrite_links("`--a` `b`", "README.md")[0] == "`--a`{ .whole } `b`"
    assert rewrite_links("[a](docs/models.md)", "README.md")[0] == "[a](models.md)"
    assert rewrite_links("[a](../running.md)", "docs/howto/x.md")[0] == "[a](../running.md)"


def test_all_pages_are_in_the_navigation():
    navigation = (ROOT / "tools/docs/site.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        page = str(path.relative_to(ROOT / "docs"))
        assert f"- {page}\n" in navigation, f"add {page} to nav in tools/docs/site.yml"


@pytest.mark.parametrize("file", FILES)
def test_python_snippets_are_valid(file):
    for _, language, code in FENCE.findall((ROOT / file).read_text()):
        if language == "python":
            ast.parse(code.replace("...", "None") if code.strip() == "..." else code)


def test_flags_in_the_documentation_exist(commands):
    fields = {*flatten(default_config()), EPOCHS}
    known = {name: {flag.name for flag in command.flags} for name, command in commands.items()}
    for file in FILES:
        for _, language, code in FENCE.findall((ROOT / file).read_text()):
            if language not in ("", "bash", "sh", "console"):
                continue
            for command in re.sub(r"\\\n", " ", code).splitlines():
                words = shlex.split(command, comments=True) if command.count("'") % 2 == 0 else []
                module = _module(words)
                if module not in known or module == "experiments.analyze":
                    continue
                for word in words:
                    if match := re.match(r"--config\.([a-z_.]+)=", word):
                        assert match[1] in fields, f"{file}: {command}"
                    if match := re.match(r"--(no)?([a-z_]+)", word):
                        names = {match[2], (match[1] or "") + match[2]}
                        assert names & {*known[module], "help"}, f"{file}: {command}"


def _module(words):
    """Returns the module of a command line, or ''."""
    names = {name: module for module, names in installed_names().items() for name in names}
    for position, word in enumerate(words):
        rest = words[position + 1 :]
        if word == "-m" and rest:
            return rest[0]
        if word in names:
            return names.get(f"{word} {rest[0]}" if rest else "", names[word])
    return ""
