"""Command line of flaxres: python -m flaxres WORD ..., as `flaxres WORD ...`."""

from flaxres.console_scripts import main

if __name__ == "__main__":
    main()
