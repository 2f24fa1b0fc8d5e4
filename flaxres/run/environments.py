"""Environments in which a run was trained: devices, versions and commits, in info.json.

info.json describes the environment of the last start. If a run resumes in another one, the entry
'earlier' lists the former ones, each with the step up to which it trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

EARLIER = "earlier"


class Environment(msgspec.Struct, omit_defaults=True):
    """An earlier environment of a run; an element of 'earlier' in info.json.

    Attributes:
      until_step: number of steps done when the run left it.
      device: name of the device.
      devices: number of devices.
      processes: number of processes.
      jax: version of JAX.
      torch: version of PyTorch, for a run in PyTorch.
      flaxres: version of flaxres.
      commit: commit of flaxres.
    """

    until_step: Annotated[int, msgspec.Meta(ge=0)]
    device: str | None = None
    devices: int | None = None
    processes: int | None = None
    jax: str | None = None
    torch: str | None = None
    flaxres: str | None = None
    commit: str | None = None


FIELDS = tuple(field for field in Environment.__struct_fields__ if field != "until_step")


def with_earlier(info: Mapping[str, Any], previous: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Returns the content of info.json for a run that starts or resumes.

    Args:
      info: parameters of the run and the environment of this start.
      previous: content of info.json until now; {} if there is none.
      step: number of steps done, 0 for a new run.
    """
    spans = [*previous.get(EARLIER, ()), {"until_step": step, **_environment(previous)}]
    earlier = []
    for span in spans if previous and step else ():
        earlier.append({**span, "until_step": min(span["until_step"], step)})
        if span["until_step"] >= step:  # later environments have saved nothing
            break
    if earlier and _environment(earlier[-1]) == _environment(info):
        del earlier[-1]
    content = {name: value for name, value in info.items() if name != EARLIER}
    return content | ({EARLIER: earlier} if earlier else {})


def _environment(content: Mapping[str, Any]) -> dict[str, Any]:
    return {field: content[field] for field in FIELDS if content.get(field) is not None}


def describe_devices(info: Mapping[str, Any]) -> str:
    """Returns the devices that trained a run, in order, such as 'NVIDIA H100 then TPU v5e'.

    Args:
      info: content of info.json.
    """
    names = [str(entry.get("device", "?")) for entry in (*info.get(EARLIER, ()), info)]
    changes = [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return " then ".join(changes)


def describe_earlier(info: Mapping[str, Any]) -> str | None:
    """Describes the earlier environments of a run in one line; returns None if there are none.

    Args:
      info: content of info.json.
    """
    texts = []
    for entry in info.get(EARLIER, ()):
        facts = [
            str(entry.get("device", "?")),
            *(f"{f} {entry[f]}" for f in FIELDS[1:] if f in entry),
        ]
        texts.append(f"to step {entry['until_step']}: {', '.join(facts)}")
    return "; ".join(texts) or None
