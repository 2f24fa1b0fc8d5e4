"""Suggestions for misspelled names: '; did you mean NAME?' at the end of an error message."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Names of hyperparameters in other programs -> normalized names of config fields.
ABBREVIATIONS = {"lr": "learning-rate", "wd": "weight-decay", "bs": "batch-size"}
MAX_SUGGESTIONS = 3
MAX_LENGTH = 200  # characters of a name that is compared
MIN_PREFIX = 3  # characters of a name that is an abbreviation of another one


def did_you_mean(name: str, names: Iterable[str], form: str = "{!r}") -> str:
    """Returns '; did you mean NAME?' with the nearest of `names`, or '' if none is near.

    Args:
      name: the misspelled name.
      names: the names that exist.
      form: format of a name in the message, such as '--{}' for flags.
    """
    return suggestion(nearest_names(name, names), form)


def suggestion(names: Iterable[str], form: str = "{!r}") -> str:
    """Returns '; did you mean NAME, NAME or NAME?', or '' without names.

    Args:
      names: the names to suggest, the best one first.
      form: format of a name in the message.
    """
    shown = [form.format(name) for name in names]
    if not shown:
        return ""
    *others, last = shown
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names that are nearest to a misspelled one, at most three; [] if none is near.

    The distance is that of `edit_distance`. A name is near if the distance is at most a third of
    the shorter length, or if one of the two abbreviates the other: 'eval' for 'evaluate', or
    'steps' for 'num_steps'.

    Args:
      name: the misspelled name.
      names: the names that exist.
    """
    given = _normalized(name[:MAX_LENGTH])
    distances = {}
    for other in dict.fromkeys(names):
        if other == name:
            continue
        known = _normalized(other)
        limit = max(1, min(len(given), len(known)) // 3)
        if abs(len(given) - len(known)) <= limit:
            distance = edit_distance(given, known)
            if distance <= limit and distance < max(len(given), len(known)):
                distances[other] = distance
        if other not in distances and _abbreviates(*sorted((given, known), key=len)):
            distances[other] = limit + 1  # after all others
    best = min(distances.values(), default=0)
    return [other for other, distance in distances.items() if distance == best][:MAX_SUGGESTIONS]


def _abbreviates(short: str, long: str) -> bool:
    """Returns True if a text is the start or the last word of a longer one."""
    return len(short) >= MIN_PREFIX and (long.startswith(short) or long.endswith(f"-{short}"))


def similar_directory(path: Path) -> str:
    """Returns a suggestion if a directory beside a missing one has a similar name, or ''."""
    try:
        others = sorted(entry.name for entry in os.scandir(path.parent) if entry.is_dir())
    except (OSError, ValueError):
        return ""
    return suggestion(str(path.parent / name) for name in nearest_names(path.name, others))


def edit_distance(first: str, second: str) -> int:
    """Returns the number of edits that turn one text into another.

    An edit inserts, deletes or replaces a character, or swaps two adjacent ones (optimal string
    alignment).
    """
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, previous, row = row, before, [i]
        for j, b in enumerate(second, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest_fields(field: str, known: Iterable[str]) -> list[str]:
    """Returns the dotted names that are nearest to a misspelled one; the group may be missing.

    Args:
      field: the misspelled name, such as 'depth' or 'dataset.lerning_rate'.
      known: dotted names that exist, such as 'model.depth'.
    """
    known = list(known)
    name = _normalized(field.rpartition(".")[2])
    name = ABBREVIATIONS.get(name, name)
    if same := [other for other in known if _normalized(other.rpartition(".")[2]) == name]:
        return same[:MAX_SUGGESTIONS]
    if near := nearest_names(field, known):
        return near
    last = nearest_names(name, dict.fromkeys(other.rpartition(".")[2] for other in known))
    return [other for other in known if other.rpartition(".")[2] in last][:MAX_SUGGESTIONS]


def _normalized(name: str) -> str:
    """Returns a name in lower case, with one form of separator between words."""
    return name.strip().casefold().replace("_", "-").replace(" ", "-")
