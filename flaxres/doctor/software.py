"""Versions of flaxres and of the packages that it needs, and the optional packages."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from flaxres import __version__
from flaxres.doctor.findings import NOTE, PROBLEM, Finding
from flaxres.extras import REPOSITORY, install_command
from flaxres.version import commit

OLDEST_PYTHON = "3.11"
# Packages that are always listed; the others only if something is wrong with them.
LISTED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
# Purposes of the extras, which are requirements-NAME.txt in the repository.
PURPOSES = {
    "accelerators": "compiles steps for TPUs and GPUs that the machine does not have",
    "benchmarks": "benchmarks against PyTorch",
    "cluster": "sweeps on a Ray cluster",
    "dev": "tests and linters",
    "docs": "the documentation site",
    "mlflow": "metrics in MLflow",
    "notebooks": "the notebooks",
    "onnx": "export to ONNX",
    "pandas": "results of sweeps as pandas tables",
    "prepare": "download and preparation of TFDS data sets",
    "torch": "PyTorch state dicts",
    "tracking": "metrics in Weights & Biases and MLflow",
    "wandb": "metrics in Weights & Biases",
}


def check_software() -> list[Finding]:
    """Returns the versions of flaxres, Python and the required packages."""
    revision = commit()
    source = f", commit {revision[:12]}{'-dirty' * revision.endswith('-dirty')}" if revision else ""
    findings = [Finding("flaxres", __version__ + source), _check_python()]
    for requirement in sorted(read_requirements(), key=_position):
        finding = check_requirement(requirement)
        if requirement.name in LISTED or finding.status != "ok":
            findings.append(finding)
        if requirement.name == "jax":
            findings.append(_check_jaxlib())
    return findings


def check_extras() -> list[Finding]:
    """Returns for each extra of flaxres what it is for, and which of its packages are missing."""
    findings = []
    for extra, requirements in read_extras().items():
        missing = [r.name for r in requirements if _installed_version(r.name) is None]
        purpose = PURPOSES.get(extra, "optional packages")
        if missing:
            advice = install_command(extra, REPOSITORY)
            value = f"{purpose}; missing: {', '.join(missing)}"
            findings.append(Finding(extra, value, NOTE, advice))
        else:
            findings.append(Finding(extra, purpose))
    return findings


def read_requirements() -> list[Requirement]:
    """Returns the requirements of flaxres that apply to this machine."""
    file = REPOSITORY / "requirements.txt"
    if file.is_file():
        return list(_parse_file(file))
    return [r for r, extra in _installed_requirements() if not extra]


def read_extras() -> dict[str, list[Requirement]]:
    """Returns the requirements of each extra of flaxres, by the name of the extra."""
    files = sorted(REPOSITORY.glob("requirements-*.txt"))
    if files:
        prefix = "requirements-"
        return {file.stem.removeprefix(prefix): list(_parse_file(file)) for file in files}
    extras: dict[str, list[Requirement]] = {}
    for requirement, extra in _installed_requirements():
        if extra:
            extras.setdefault(extra, []).append(requirement)
    return extras


def check_requirement(requirement: Requirement) -> Finding:
    """Returns the installed version of a required package, and whether it is in the range."""
    version, needed = _installed_version(requirement.name), str(requirement.specifier)
    advice = f"pip install '{requirement.name}{needed}'"
    if version is None:
        return Finding(requirement.name, "not installed", PROBLEM, advice)
    if needed and not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, f"{version}, flaxres needs {needed}", PROBLEM, advice)
    return Finding(requirement.name, version + (f" (flaxres needs {needed})" if needed else ""))


def _check_python() -> Finding:
    version = platform.python_version()
    if Version(version) < Version(OLDEST_PYTHON):
        return Finding("Python", version, PROBLEM, f"install Python {OLDEST_PYTHON} or newer")
    return Finding("Python", f"{version} (flaxres needs >={OLDEST_PYTHON})")


def _check_jaxlib() -> Finding:
    jaxlib, jax = _installed_version("jaxlib"), _installed_version("jax")
    if jaxlib is None:
        return Finding("jaxlib", "not installed", PROBLEM, "pip install --upgrade jax")
    if jax is not None and Version(jaxlib) > Version(jax):
        return Finding("jaxlib", f"{jaxlib}, newer than jax", PROBLEM, "pip install --upgrade jax")
    return Finding("jaxlib", jaxlib)


def _position(requirement: Requirement) -> int:
    return LISTED.index(requirement.name) if requirement.name in LISTED else len(LISTED)


def _parse_file(file: Path) -> Iterator[Requirement]:
    for line in file.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text and not text.startswith("-"):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _installed_requirements() -> Iterator[tuple[Requirement, str]]:
    """Yields the requirements in the metadata of an installed flaxres, each with its extra."""
    try:
        lines = importlib.metadata.requires("flaxres") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        match = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker))
        extra = match[1] if match else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement, extra


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
