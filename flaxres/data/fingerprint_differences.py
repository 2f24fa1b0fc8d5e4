"""Differences between two fingerprints of data sets, in words.

`describe_differences` lists all of them, `describe_labels` those in the labels of folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from flaxres.data.fingerprint import UNREADABLE, ArrayDigest, FileList, Fingerprint
from flaxres.errors import counted, first_few

MAX_NAMES = 5  # names of files or classes in one difference


def describe_differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Returns the differences between two fingerprints, such as 'class folders renamed: a -> b'.

    Args:
      before: the earlier fingerprint. An empty `dataset` stands for one of which only the classes
        are known.
      after: the later fingerprint. Samples are compared only in splits for which both have them.

    Returns:
      One line for each difference; none if the fingerprints are equal.

    Raises:
      ValueError: a listing of files is damaged.
    """
    before, after = _with_common_samples(before, after), _with_common_samples(after, before)
    if before.digest == after.digest:
        return []
    lines = []
    if before.dataset and before.dataset != after.dataset:
        lines.append(f"the data set is {after.dataset} instead of {before.dataset}")
    renamed = _renamed_folders(before, after) if before.is_folder and after.is_folder else {}
    lines += _describe_classes(before, after, renamed)
    for name in sorted(before.splits.keys() & after.splits.keys()):
        lines += _describe_split(name, before, after, renamed)
    other_splits = sorted(before.splits.keys() ^ after.splits.keys())
    if other_splits and before.splits:
        lines.append(f"other splits are used: {', '.join(other_splits)}")
    if before.dataset and not lines:
        lines.append("the digests of the data differ")
    return lines


def _with_common_samples(fingerprint: Fingerprint, other: Fingerprint) -> Fingerprint:
    """Returns a fingerprint without the samples of splits for which the other one has none."""
    sampled = {name for name, split in other.splits.items() if split.samples}
    splits = {
        name: split if name in sampled else dataclasses.replace(split, samples="")
        for name, split in fingerprint.splits.items()
    }
    return dataclasses.replace(fingerprint, splits=splits)


def describe_labels(
    before: Fingerprint, after: Fingerprint, classes: Sequence[str] = ()
) -> str | None:
    """Returns how the labels of folders change: 'labels change: a 0 -> 1, b (was c) 2 -> 0'.

    Args:
      before: the earlier fingerprint.
      after: the later fingerprint.
      classes: names of the classes that the run keeps, ordered by label; empty for all.

    Returns:
      The line; None if no label changes, or the data set is no folder.
    """
    if not after.is_folder:
        return None
    old, new = (list(classes or fingerprint.classes) for fingerprint in (before, after))
    renamed = _renamed_folders(before, after) if before.is_folder else {}
    changes = []
    for label, name in enumerate(old):
        new_name = renamed.get(name, name)
        if new_name in new and new.index(new_name) != label:
            former = f" (was {name})" if new_name != name else ""
            changes.append((new.index(new_name), f"{new_name}{former} {label} -> "))
    changes_by_label = [f"{text}{label}" for label, text in sorted(changes)]
    return f"labels change: {first_few(changes_by_label, MAX_NAMES)}" if changes else None


def _class_files(fingerprint: Fingerprint) -> dict[str, dict[str, FileList]]:
    """Returns the files of each class by split."""
    files: dict[str, dict[str, FileList]] = {name: {} for name in fingerprint.classes}
    for split, content in fingerprint.splits.items():
        for name, listed in content.files.items():
            files.setdefault(name, {})[split] = listed
    return files


def _renamed_folders(before: Fingerprint, after: Fingerprint) -> dict[str, str]:
    """Returns new names of class folders by old name, also of folders that exchanged their names.

    A folder has the files of its new name in one split at least, because images may have been added
    to the others, and in no split those of its old name.
    """
    old_digests, new_digests = (
        {
            name: {(split, listed.digest) for split, listed in splits.items()}
            for name, splits in _class_files(fingerprint).items()
        }
        for fingerprint in (before, after)
    )
    candidates = [name for name in new_digests if new_digests[name] != old_digests.get(name)]
    renamed: dict[str, str] = {}
    for name, digests in old_digests.items():
        if digests & new_digests.get(name, set()):
            continue
        matches = {candidate: len(digests & new_digests[candidate]) for candidate in candidates}
        best = max(matches, key=matches.__getitem__, default=name)
        if matches.get(best):
            renamed[name] = best
            candidates.remove(best)
    return renamed


def _describe_classes(
    before: Fingerprint, after: Fingerprint, renamed: Mapping[str, str]
) -> Iterator[str]:
    kind = "class folders" if after.is_folder else "classes"
    old, new = before.classes, after.classes
    if renamed:
        pairs = [f"{name} -> {new_name}" for name, new_name in renamed.items()]
        yield f"{kind} renamed: {first_few(pairs, MAX_NAMES)}"
    elif not before.is_folder and len(old) == len(new):
        changes = [f"{old[i]} -> {new[i]} (label {i})" for i in range(len(old)) if old[i] != new[i]]
        if changes:
            yield f"{kind} changed: {first_few(changes, MAX_NAMES)}"
        return
    new_names = set(renamed.values())
    removed = [n for n in old if n not in renamed and (n not in new or n in new_names)]
    added = [n for n in new if n not in new_names and (n not in old or n in renamed)]
    for verb, fingerprint, names in (("removed", before, removed), ("added", after, added)):
        if names:
            files = _class_files(fingerprint)
            listed = [_with_count(name, files[name].values()) for name in names]
            yield f"{kind} {verb}: {first_few(listed, MAX_NAMES)}"


def _with_count(name: str, files: Collection[FileList]) -> str:
    """Returns the name of a class with its number of images, where it is known."""
    return f"{name} ({counted(sum(f.count for f in files), 'image')})" if files else name


def _describe_split(
    name: str, before: Fingerprint, after: Fingerprint, renamed: Mapping[str, str]
) -> Iterator[str]:
    """Yields the differences of one split, class by class for folders."""
    old, new = before.splits[name], after.splits[name]
    new_names = set(renamed.values())
    for group, files in old.files.items():
        later_group = renamed.get(group, group)
        is_replaced = group not in renamed and group in new_names
        if later_group in new.files and not is_replaced:
            place = f"{name}/{later_group}" if before.is_folder else f"split {name}"
            unit = "image" if before.is_folder else "file"
            yield from _describe_files(files, new.files[later_group], place, unit)
    for key in sorted(old.arrays.keys() | new.arrays.keys()):
        yield from _describe_array(key, name, old.arrays.get(key), new.arrays.get(key))
    if not before.is_folder and old.images != new.images:
        yield f"split {name} has {counted(new.images, 'image')} instead of {old.images:,}"
    if old.files == new.files and old.samples != new.samples:
        yield f"records of split {name} differ, in files of the same names and sizes"


def _describe_array(
    name: str, split: str, old: ArrayDigest | None, new: ArrayDigest | None
) -> Iterator[str]:
    shapes = [f"{array.dtype} {array.shape}" if array else "missing" for array in (old, new)]
    if shapes[0] != shapes[1]:
        yield f"{name} of split {split}: {shapes[1]} instead of {shapes[0]}"
    elif old != new:
        yield f"{name} of split {split} have other values"


def _describe_files(before: FileList, after: FileList, place: str, unit: str) -> Iterator[str]:
    if before.digest == after.digest:
        return
    old, new = before.sizes(), after.sizes()
    if old is None or new is None:
        if before.count != after.count:
            yield f"{place} has {counted(after.count, unit)} instead of {before.count:,}"
        else:
            yield f"names or sizes of the {counted(after.count, unit)} in {place} differ"
        return
    for verb, names in (
        ("added", sorted(new.keys() - old.keys())),
        ("removed", sorted(old.keys() - new.keys())),
    ):
        if names:
            yield f"{verb} {counted(len(names), unit)} in {place} ({first_few(names, MAX_NAMES)})"
    resized = [
        f"{name} ({_describe_sizes(old[name], new[name])})"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]
    if resized:
        yield f"size changed in {place}: {first_few(resized, MAX_NAMES)}"


def _describe_sizes(old: int, new: int) -> str:
    if UNREADABLE not in (old, new):
        return f"{old:,} -> {new:,} bytes"
    return " -> ".join(
        "missing or unreadable" if size == UNREADABLE else f"{size:,} bytes" for size in (old, new)
    )


def join_differences(differences: Sequence[str], max_differences: int = 8) -> str:
    """Returns differences in one line, the first ones only if there are many."""
    others = len(differences) - max_differences
    suffix = f"; and {others} more differences" if others > 0 else ""
    return "; ".join(differences[:max_differences]) + suffix
