"""Completion of command lines in a shell: `flaxres completion bash`.

The script that the command prints contains all names, so completing a word starts no Python. Only
the user's own config and sweep files are looked up when a word is completed.
"""
