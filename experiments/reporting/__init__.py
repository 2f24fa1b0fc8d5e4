"""Report of a workdir: status of its runs, tables, figures and page templates.

Imported by `experiments.report`, the command line; imports the other packages of `experiments` and
`flaxres`.
"""
