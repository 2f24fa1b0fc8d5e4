"""Command that builds the CPU kernels, or prints the CPU settings for a shell.

python -m flaxres.cpu
eval "$(python -m flaxres.cpu --print_env)"
"""

import sys

from flaxres.cpu.build import Build
from flaxres.cpu.kernel_files import KERNELS
from flaxres.cpu.running_process import environment_lines
from flaxres.errors import print_lines, printable

USAGE = "python -m flaxres.cpu [--print_env]"


def main() -> None:
    """Builds the kernels and prints the path of the library of each dtype, or an error.

    With --print_env, only prints commands that set the environment of a shell; with --help, the
    usage.
    """
    if sys.argv[1:] == ["--print_env"]:
        print("\n".join(environment_lines()))
        return
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(f"{__doc__}\nusage: {USAGE}")
        return
    if len(sys.argv) > 1:
        arguments = printable(" ".join(sys.argv[1:]))
        print(f"error: unexpected arguments: {arguments}; {USAGE}", file=sys.stderr)
        sys.exit(2)
    builds = [Build(sources) for sources in KERNELS.values()]
    for build in builds:
        if build.wait() is None:
            sys.exit(f"error: the CPU kernels cannot be built: {printable(build.problem)}")
        if build.path is None:  # they cannot be stored; a notice has given the reason
            sys.exit(1)
        print_lines([build.path])


if __name__ == "__main__":
    main()
