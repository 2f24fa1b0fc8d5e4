"""Results of runs on disk: readers, tables, figures and the archive of finished runs.

The other packages of `experiments` import from here. This package imports only `flaxres`.
"""
