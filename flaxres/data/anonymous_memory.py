"""Memory that processes share and that has no name, so that killed processes leave nothing behind.

`AnonymousMemory` can be pickled. Another process of the same user opens it through /proc, as long
as its creator lives. Systems other than Linux have only named shared memory, which Python's
resource tracker removes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from flaxres.errors import DatasetError, one_line

SHARED_MEMORY = Path("/dev/shm")
CGROUPS = Path("/sys/fs/cgroup")
MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3: the memory is never executed
ADVICE = (
    "choose a smaller --config.dataset.prefetch or fewer --config.dataset.workers (0: threads, "
    "which need no shared memory)"
)


class AnonymousMemory:
    """Shared memory that is freed when the last process that uses it ends.

    Attributes:
      size: size in bytes.
    """

    def __init__(self, size: int):
        """Allocates `size` bytes of zeros.

        Raises:
          DatasetError: there is not so much memory, or memory cannot be shared on this system.
        """
        self.size = size
        self._named: shared_memory.SharedMemory | None = None
        self._map: mmap.mmap | None = None
        self._creator = os.getpid()
        if sys.platform != "linux":
            self._named = shared_memory.SharedMemory(create=True, size=size)
            return
        self._descriptor = _create(size)
        os.ftruncate(self._descriptor, size)
        self._map = mmap.mmap(self._descriptor, size)

    @property
    def buffer(self) -> Any:
        """The memory, for `numpy.ndarray(buffer=...)`. Memory with arrays cannot be closed.

        Raises:
          DatasetError: the creator has ended, or the system denies access to its memory.
        """
        if self._named is not None:
            return self._named.buf
        if self._map is None:
            self._map = self._open()
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        if self._named is not None:
            return {"size": self.size, "name": self._named.name}
        status = os.fstat(self._descriptor)
        identity = status.st_dev, status.st_ino
        path = f"/proc/{self._creator}/fd/{self._descriptor}"
        return {"size": self.size, "path": path, "identity": identity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.size = state["size"]
        self._named = shared_memory.SharedMemory(state["name"]) if "name" in state else None
        self._map = None
        self._path, self._identity = state.get("path", ""), state.get("identity")

    def _open(self) -> mmap.mmap:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) != self._identity:
                    raise OSError("it belongs to another process")
                return mmap.mmap(descriptor, self.size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DatasetError(
                f"a decode worker cannot open the shared memory {self._path} "
                f"({error.strerror or one_line(error)}); choose --config.dataset.workers=0 "
                "(threads, which need no shared memory)"
            ) from error

    def close(self) -> None:
        """Frees the memory; only for its creator."""
        if self._named is not None:
            self._named.close()
            self._named.unlink()
        elif self._map is not None:
            self._map.close()
            self._map = None
            os.close(self._descriptor)


def _create(size: int) -> int:
    """Returns a descriptor of an empty file in memory that has no name."""
    for flags in (os.MFD_CLOEXEC | MFD_NOEXEC_SEAL, os.MFD_CLOEXEC):
        try:
            descriptor = os.memfd_create("flaxres", flags)
        except OSError:  # an older kernel, or a sandbox
            continue
        try:
            _check_available(size, available_memory(), "memory")
        except DatasetError:
            os.close(descriptor)
            raise
        return descriptor
    try:
        _check_available(size, _free_bytes(SHARED_MEMORY), str(SHARED_MEMORY))
        return os.open(SHARED_MEMORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatasetError(
            f"this system has no shared memory ({SHARED_MEMORY}: {error.strerror}); {ADVICE}"
        ) from error


def _check_available(size: int, available: int | None, place: str) -> None:
    """Checks that there is memory for `size` bytes; a process that used more would be killed.

    Raises:
      DatasetError: less is available.
    """
    if available is not None and available < size:
        enlarge = f"enlarge {place}, " if place.startswith("/") else ""
        raise DatasetError(
            f"decoded images need {size / 2**20:,.0f} MiB of shared memory, but only "
            f"{available / 2**20:,.0f} MiB of {place} are free; {enlarge}{ADVICE}"
        )


def _free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def available_memory() -> int | None:
    """Returns the bytes that this process and others of its control group can still use.

    Returns None if the system does not tell.
    """
    limits = [_available_in_group(group) for group in _control_groups()]
    limits.append(meminfo_bytes("MemAvailable", "SwapFree"))
    return min((limit for limit in limits if limit is not None), default=None)


def meminfo_bytes(*names: str) -> int | None:
    """Returns the sum of entries of /proc/meminfo in bytes; None if the system lacks them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        return sum(1024 * int(sizes[name].split()[0]) for name in names)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def memory_limit() -> int | None:
    """Returns the smallest limit of this process's memory control groups in bytes, if any."""
    limits = []
    for group in _control_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # 'max' stands for no limit
                limits.append(int((group / name).read_text()))
    # Version 1 has a limit near 2**63 where there is none.
    return min((limit for limit in limits if limit < 2**60), default=None)


def _control_groups() -> list[Path]:
    """Returns the directories of this process's memory control groups, versions 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = CGROUPS / controllers
            # In a container, the path may be that of the host, whose groups are not visible.
            group = root / path.lstrip("/")
            groups += [root, *(g for g in (group, *group.parents) if root in g.parents)]
    return groups


def _available_in_group(group: Path) -> int | None:
    """Returns the bytes between the use of a control group and its limit; None without a limit."""
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            free = int((group / limit).read_text()) - int((group / usage).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            return free + int(dict(line.split(" ", 1) for line in lines)[reclaimable])
        except (OSError, ValueError, KeyError):  # 'max' stands for no limit
            continue
    return None
