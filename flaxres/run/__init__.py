"""The files and the life of one run: workdir, lock, checkpoints, metrics, stop requests.

Imported by `flaxres.pretrained` and above; imports `flaxres.config` and below.
"""
