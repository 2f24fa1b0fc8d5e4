"""Command that builds the CPU kernels: python -m flaxres.cpu."""

import sys

from flaxres.cpu.build import Build


def main() -> None:
    """Builds the kernels and prints the path of the library, or an error."""
    build = Build()
    path = build.wait()
    if path is None:
        sys.exit(f"error: the CPU kernels cannot be built: {build.problem}")
    print(path)


if __name__ == "__main__":
    main()
