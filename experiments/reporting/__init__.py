"""The report of a workdir: the status of its runs, tables, figures and page templates.

Imported by `experiments.report`; imports the other packages of `experiments` and `flaxres`.
"""
