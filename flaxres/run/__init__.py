"""Files and lifecycle of one run: workdir, lock, checkpoints, metrics, and stop requests.

Imported by `flaxres.pretrained` and above; imports `flaxres.config` and below.
"""
