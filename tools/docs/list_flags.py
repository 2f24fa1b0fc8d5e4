"""Lists the flags of many commands: `python -m tools.docs.list_flags MODULE 'MODULE NAME' ...`.

Prints one JSON object, {command: XML of --helpxml}; the XML is empty if a package that the command
needs is not installed. For many commands, JAX is imported once; each command then runs in a fork,
which takes a tenth of a second instead of several.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
import tempfile
import warnings

PRELOADED = ("jax", "flax.linen", "optax", "matplotlib.pyplot", "ml_collections.config_flags")


def list_flags(command: str) -> str:
    """Returns what a command prints for --helpxml, or '' if a package that it needs is missing.

    Raises:
      RuntimeError: the command failed; the message has its output.
    """
    module, *arguments = command.split()
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            # Otherwise flaxres would restart Python with its settings of the memory allocator.
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.check=0"
            sys.argv = [module, *arguments, "--helpxml"]
            with contextlib.suppress(SystemExit):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        output.seek(0)
        printed = output.read().decode()
    start, end = printed.find("<?xml"), printed.rfind("</AllFlags>")
    if start < 0 and "ModuleNotFoundError" in printed:
        return ""
    if min(start, end) < 0:
        raise RuntimeError(f"{command} --helpxml lists no flags: {printed[-2000:]}")
    return printed[start:end] + "</AllFlags>"


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*fork")
    if len(sys.argv) > 6:
        for name in PRELOADED:
            importlib.import_module(name)
    json.dump({command: list_flags(command) for command in sys.argv[1:]}, sys.stdout)
