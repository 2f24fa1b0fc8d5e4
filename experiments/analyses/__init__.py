"""Analyses of trained models, one module each, run with `flaxres analyze NAME`.

Imported by `experiments.reporting` and the command lines; imports `experiments.sweeps`,
`experiments.results` and `flaxres`.
"""

ANALYSES_DIR = "analyses"  # directory of the results, in the workdir

# Name of an analysis -> description in --help and in captions of the report. The module of that
# name has `analyze(sources, output) -> files` and, if it has flags, `define_flags()`. Flags are
# defined in a function because two analyses may use the same flag name.
ANALYSES = {
    "responses": "standard deviation of the response of each 3x3 layer (He15, figure 7)",
    "gradients": "gradient norms and activation scales of each layer, over training",
    "population": "test error with population instead of running statistics of batch norm",
    "batch_norm": "inputs and outputs of batch norm: histograms, train/eval gap, scales and shifts",
    "identity": "training of a deeper model built from a trained one and identity layers",
    "blocks": "test error after dropping or swapping blocks",
    "landscape": "loss along lines and planes through trained models",
}
