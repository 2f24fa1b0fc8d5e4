"""Models of the degradation experiment, which a sweep file and two command lines share.

The command lines do not import `configs`, whose name a package in the current directory may have.
"""

# He15 (arXiv 1512.03385), section 4.2.
DEGRADATION_MODELS = [
    f"{family}-{depth}" for depth in (20, 32, 44, 56) for family in ("plain", "resnet")
]
