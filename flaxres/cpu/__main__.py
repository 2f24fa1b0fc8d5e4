"""Builds the kernels: python -m flaxres.cpu."""

import sys

from flaxres.cpu.build import Build


def main() -> None:
    """Says where the library is, or what went wrong."""
    build = Build()
    library = build.wait()
    if library is None:
        sys.exit(f"error: the CPU kernels cannot be built: {build.problem}")
    print(library)


if __name__ == "__main__":
    main()
