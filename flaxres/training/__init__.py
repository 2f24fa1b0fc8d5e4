"""Training: the step functions, their compilation, the input pipeline and the loop.

Imported by `flaxres.inference` and above; imports `flaxres.pretrained`, `flaxres.run` and below.
"""
