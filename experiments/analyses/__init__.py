"""What trained nets are like inside: one analysis a file, run by `experiments.analyze`."""

# A module of this package each, with `analyze(directories, output) -> files` and, where there are
# flags of its own, `define_flags()`: two analyses may have flags of one name.
ANALYSES = {
    "responses": "how strongly each 3x3 layer responds (He15, figure 7)",
    "gradients": "gradient norms and activation scales by layer, over training",
    "population": "error with population statistics of batch norm in place of running ones",
    "batch_norm": "what batch norm takes and gives: histograms, train/eval gap, scales and shifts",
    "identity": "a deeper net made of a trained one and identity layers, trained on",
    "blocks": "error after dropping and shuffling blocks",
    "landscape": "loss along lines and planes through trained nets",
}
