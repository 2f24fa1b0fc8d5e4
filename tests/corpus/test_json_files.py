"""Files of a run with any content: every command gives one line, and no run hides another."""

import csv
import io
import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest

from tests.commands import assert_error, run_command
from tests.conftest import ROOT

OVERRIDES = {
    **{"num_steps": 20, "boundaries": "(10,15)", "batch_size": 32, "model.widths": "(4,8,8)"},
    **{"log_every": 4, "eval_every": 10, "checkpoint_every": 5, "num_devices": 1},
}
FLAGS = (
    f"--config={ROOT}/configs/digits.py:resnet-8",
    *(f"--config.{field}={value}" for field, value in OVERRIDES.items()),
)
# Contents of any JSON file.
DOCUMENTS = {
    **{"empty": b"", "null": b"null", "list": b"[]", "text": b'"x"', "half": b'{"seed": 0, "mod'},
    **{"not UTF-8": b'{"seed": "\xff"}', "NaN": b'{"seed": NaN}', "infinity": b'{"seed": 1e999}'},
    **{"deep": b'{"seed": ' + 5_000 * b"[" + 5_000 * b"]" + b"}", "twice": b'{"a": 1, "a": 2}'},
    **{"huge": b'{"seed": 1' + 400 * b"0" + b"}", "digits": b'{"seed": ' + 5_000 * b"9" + b"}"},
}
# Changes of config.json, and what the message must say.
CONFIGS = {
    "seed": {
        **{"text": "seed must be an integer, got '0'", "null": "seed must be an integer"},
        **{"object": "'seed' must be a value, got an object", "list": "seed must be an integer"},
    },
    "model": {"text": "'model' must be an object of fields", "null": "'model' must be an object"},
    "num_steps": {"zero": "'num_steps' must be an integer of at least 1, got 0"},
    "learning_rate": {"text": "learning_rate must be a number, got '0'"},
    "boundaries": {"object": "'boundaries' must be a value, got an object"},
}
VALUES = {"text": "0", "null": None, "object": {"x": 1}, "list": [0], "zero": 0}
# Lines 2 and 3 of metrics.jsonl, and what the message must say.
LINES = {
    b"null": "line 2 must be a JSON object, got null",
    b"[]": "line 2 must be a JSON object, got []",
    b"": "line 2 is not valid JSON",
    b'{"step": 8, "tra\n{"step": 10}': "line 2 is not valid JSON",
    b'{"train_loss": 1}': "line 2 lacks 'step'",
    b'{"step": "a"}': "line 2: 'step' must be an integer of at least 0, got \"a\"",
    b'{"step": 8.5}': "line 2: 'step' must be an integer of at least 0, got 8.5",
    b'{"step": -8}': "line 2: 'step' must be an integer of at least 0, got -8",
    b'{"step": 1' + 400 * b"0" + b"}": "line 2: 'step' must be an integer",
    b'{"step": 4}': "line 2: 'step' must be above 4, the step of the line before, got 4",
    b'{"step": 8, "train_loss": NaN}': "line 2 is not valid JSON",
    b'{"step": 8, "train_loss": 1e999}': "line 2 is not valid JSON",
    b'{"step": 8, "train_loss": null}': "line 2: 'train_loss' must be a finite number, got null",
    b'{"step": 8, "test_error": 101}': "'test_error' must be a percentage from 0 to 100, got 101",
    b'{"step": 8, "images_per_second": 0}': "'images_per_second' must be a number above 0, got 0",
    b'{"step": 8, "\xff": 1}': "line 2 is not valid JSON",
    b'{"step": ' + 5_000 * b"[" + 5_000 * b"]" + b"}": "line 2 is not valid JSON",
}
SPECIAL_FILES = {"directory": os.mkdir, "named pipe": os.mkfifo}


@pytest.fixture
def run(digits_run, tmp_path):
    """Returns a copy of a run whose newest checkpoint is that of step 15 of 20."""
    return make_unfinished(digits_run, tmp_path / "run")


def make_unfinished(digits_run, directory):
    shutil.copytree(digits_run, directory)
    shutil.rmtree(directory / "checkpoints" / "20")
    return directory


def set_field(path, field, value):
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))


def set_line(path, line):
    """Replaces the second line."""
    first, _, *others = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join((first, line, *others)))


def damaged_configs(workdir):
    """Yields the name of each damage of config.json and the message, after making it."""
    path = workdir / "config.json"
    content = path.read_bytes()
    for name, document in DOCUMENTS.items():
        path.write_bytes(document)
        yield name, "config.json"
    for field, messages in CONFIGS.items():
        for name, message in messages.items():
            path.write_bytes(content)
            set_field(path, field, VALUES[name])
            yield name, message
    for name, make in SPECIAL_FILES.items():
        path.unlink()
        make(path)
        yield name, f"config.json is a {name} instead of a regular file"
        os.rmdir(path) if path.is_dir() else path.unlink()
        path.write_bytes(content)


def test_configs(run):
    """Every command stops; a report has each damage, here are some for each command."""
    modes = (FLAGS, ("--mode=eval",), ("--mode=predict", f"--images={ROOT}"))
    for index, (_, message) in enumerate(damaged_configs(run)):
        if index % 4 == 0:
            outcome = run_command("flaxres.main", *modes[index % 3], f"--workdir={run}")
            assert_error(outcome, run / "config.json", message)


def test_metrics_of_a_resumed_run(run):
    path = run / "metrics.jsonl"
    content = path.read_bytes()
    for line, message in list(LINES.items())[3::6]:  # a report has all
        path.write_bytes(content)
        set_line(path, line)
        damaged = path.read_bytes()
        outcome = run_command("flaxres.main", *FLAGS, f"--workdir={run}")
        assert_error(outcome, path, message, "; restore the file, or remove this line", code=1)
        assert path.read_bytes() == damaged
    path.unlink()
    os.mkfifo(path)
    outcome = run_command("flaxres.main", *FLAGS, f"--workdir={run}")
    assert_error(outcome, "metrics.jsonl is a named pipe instead of a regular file", code=1)


def zip_of(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


def npz_of(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def test_mean_images(run):
    names, mean = np.array(list("0123456789")), np.full((8, 8, 1), 0.5, np.float32)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10_000, 10_000, 3)}
    )
    contents = {
        **{b"": "inputs.npz is damaged", b"PK\3\4 nothing": "inputs.npz is damaged"},
        npz_of(mean=mean): "class_names",
        npz_of(mean=mean.astype(np.float64), class_names=names): "'mean' must be float32 (height",
        npz_of(mean=mean[0], class_names=names): "'mean' must be float32 (height, width, channels)",
        npz_of(mean=mean * np.nan, class_names=names): "'mean' must be from 0 to 1",
        npz_of(mean=255 * mean, class_names=names): "'mean' must be from 0 to 1",
        npz_of(mean=mean, class_names=np.arange(10)): "'class_names' must be a list of text",
        npz_of(mean=mean, class_names=np.array([{}], object)): "allow_pickle=False",
        zip_of(mean=header.getvalue() + bytes(300 << 20)): "at most 268,435,456 bytes",
    }
    for number, (content, message) in enumerate(contents.items()):
        (run / "inputs.npz").write_bytes(content)
        mode = (("--mode=predict", f"--images={ROOT}"), ("--mode=eval",))[number % 2]
        outcome = run_command("flaxres.main", *mode, f"--workdir={run}")
        assert_error(outcome, run / "inputs.npz", message, "; remove it to recompute", code=1)
    (run / "inputs.npz").unlink()
    os.mkfifo(run / "inputs.npz")
    outcome = run_command("flaxres.main", "--mode=predict", f"--images={ROOT}", f"--workdir={run}")
    assert_error(outcome, "inputs.npz is a named pipe instead of a regular file", code=1)


@pytest.fixture(scope="module")
def sweep(digits_run, tmp_path_factory):
    """Returns a sweep with a good run and one run for each kind of damage, and the damages."""
    workdir = tmp_path_factory.mktemp("sweep") / "<b>s</b>"
    shutil.copytree(digits_run, workdir / "good" / "seed-0")
    for number, line in enumerate(LINES):
        directory = workdir / "metrics" / f"seed-{number}"
        shutil.copytree(digits_run, directory, ignore=shutil.ignore_patterns("checkpoints"))
        set_line(directory / "metrics.jsonl", line)
    reasons = {f"metrics/seed-{i}": text for i, text in enumerate(LINES.values())}
    template = workdir / "metrics" / "seed-0"
    number = 0
    for number, (_, message) in enumerate(damaged_configs(template)):
        directory = workdir / "config" / f"seed-{number}"
        directory.mkdir(parents=True)
        (directory / "metrics.jsonl").write_text('{"step": 4}\n')
        path = template / "config.json"
        if path.is_dir() or path.is_fifo():
            path.rename(directory / "config.json")
            path.touch()
        else:
            shutil.copy(path, directory)
        reasons[f"config/seed-{number}"] = message
    os.symlink(digits_run, workdir / "good" / "seed-1")
    reasons["good/seed-1"] = "but it is a link to"
    for name, text in {"text": "[]", "bad": '{"params": "many", "devices": []}'}.items():
        directory = workdir / name / "seed-0"
        shutil.copytree(digits_run, directory)
        (directory / "info.json").write_text(text)
        (directory / "responses.csv").write_text("layer,std\nnorm,many\n")
    plan = {"good/seed-0": {}, "x/seed-0": None, "../other/seed-0": {}, "/etc/seed-0": {}}
    plan |= {"=cmd|<script>\x1b[31m`[red]`\n/seed-0": {"num_steps": 20}, "y/seed-0": {"seed": []}}
    (workdir / "sweep.json").write_text(json.dumps(plan))
    (workdir / "analyses").mkdir()
    (workdir / "analyses" / "gradients.svg").symlink_to("/etc/passwd")
    os.mkfifo(workdir / "analyses" / "blocks.png")
    (workdir / "analyses" / "population.png").write_bytes(b"\x89PNG")
    return workdir, reasons


def assert_printable(text):
    assert not [c for c in text if not c.isprintable() and c not in "\n\xa0"]


def test_a_report_shows_every_run(sweep):
    workdir, reasons = sweep
    outcome = run_command("flaxres.experiments.report", f"--workdir={workdir}")
    assert outcome.code == 0, outcome
    markdown = (workdir / "report.md").read_text()
    page = (workdir / "report.html").read_text()
    for text in (markdown, page, outcome.stderr):
        assert "Traceback" not in text
        assert_printable(text)
    assert f"Incomplete: 3 of {4 + len(reasons)} runs finished" in markdown
    assert f"{len(reasons)} damaged" in markdown
    rows = [line for line in markdown.splitlines() if re.match(r"\| [\w/-]+ \| damaged \|", line)]
    assert len(rows) == len(reasons)
    notes = [line for line in outcome.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(outcome.stderr.splitlines())
    for reason in (*reasons.values(), "'x/seed-0' must be a JSON object, got null"):
        assert any(reason in note for note in notes), reason
    for name in ("../other/seed-0", "/etc/seed-0"):
        assert f"must be VARIANT/seed-N, got '{name}'" in outcome.stderr
    assert "root:x:" not in page  # /etc/passwd
    assert "cmd|<script>" not in page
    assert "not begun" in page
    assert "info.json: 'params' must be an integer of at least 1, got \"many\"" in outcome.stderr


def test_tables_show_every_run(sweep):
    workdir, reasons = sweep
    outcome = run_command("flaxres.experiments.sweep", "--plot_only", f"--workdir={workdir}")
    assert outcome.code == 0, outcome
    assert_printable(outcome.stdout + outcome.stderr)
    assert outcome.stdout.count(" is left out: ") == len(reasons) + 4
    table = (workdir / "runs.csv").read_text()
    assert_printable(table)
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table))}
    for name, reason in reasons.items():
        assert rows[name]["state"] == "damaged"
        assert reason in rows[name]["reason"]
    assert rows["good/seed-0"]["state"] == "finished"
    (planned,) = [name for name in rows if "cmd" in name]
    assert planned == "'=cmd|<script>\\x1b[31m`[red]`\\n/seed-0"
    assert not any(cell.startswith("=") for row in rows.values() for cell in row.values() if cell)


def test_analyses_leave_damaged_runs_out(sweep):
    workdir, reasons = sweep
    flags = (f"--workdir={workdir}", "--only=good,config,metrics/seed-1")
    outcome = run_command("flaxres.experiments.analyze", "population", *flags)
    assert outcome.code == 0, outcome
    for name, reason in reasons.items():
        if not name.startswith("metrics"):
            assert reason in outcome.stderr
    assert f"workdir {workdir}/metrics/seed-1 holds no checkpoint yet" in outcome.stderr
    rows = csv.DictReader((workdir / "analyses" / "population.csv").read_text().splitlines())
    assert {row["run"] for row in rows} == {"good/seed-0"}


SWEEP = """
from flaxres.experiments.sweeps import grid

def get_sweep():
    return grid("{root}/configs/digits.py", {{"good": ("resnet-8", {{**{overrides}}}),
        **{{f"damaged{{i}}": ("resnet-8", {{**{overrides}, "keep_checkpoints": 10 + i}})
            for i in range(3)}}}}, [0])
"""


def test_a_sweep_trains_the_other_runs(digits_run, tmp_path):
    workdir = tmp_path / "sweep"
    overrides = {
        key: eval(value) if isinstance(value, str) else value for key, value in OVERRIDES.items()
    }
    (tmp_path / "sweep.py").write_text(SWEEP.format(root=ROOT, overrides=overrides))
    for name in ("good", "damaged0", "damaged1", "damaged2"):
        shutil.copytree(digits_run, workdir / name / "seed-0")
    (workdir / "damaged0" / "seed-0" / "config.json").write_text("[]")
    with (workdir / "damaged1" / "seed-0" / "metrics.jsonl").open("a") as file:
        file.write("null\n")
    shutil.rmtree(workdir / "damaged2" / "seed-0" / "checkpoints")
    set_line(workdir / "damaged2" / "seed-0" / "metrics.jsonl", b"{}")
    flags = (f"--sweep={tmp_path / 'sweep.py'}", f"--workdir={workdir}", "--retries=0")
    for content in ("[]", '{"good/seed-0": null}', "{", '{"../x/seed-0": {}}'):
        (workdir / "sweep.json").write_text(content)
        outcome = run_command("flaxres.experiments.sweep", *flags)
        assert_error(outcome, workdir / "sweep.json", "; restore or remove the file", code=1)
        assert (workdir / "sweep.json").read_text() == content
    (workdir / "sweep.json").unlink()
    outcome = run_command("flaxres.experiments.sweep", *flags, timeout=120)
    last_line = outcome.stderr.splitlines()[-1]
    assert outcome.code == 1, outcome
    assert last_line.startswith("error: 3 of 4 runs failed: ")
    output = outcome.stdout + outcome.stderr
    assert "config.json must be a JSON object, got []" in output
    assert "line 7 must be a JSON object, got null" in output
    assert "line 2 lacks 'step'" in output
    assert "Traceback" not in outcome.stderr + outcome.stdout
    assert "good" in (workdir / "table.md").read_text()
