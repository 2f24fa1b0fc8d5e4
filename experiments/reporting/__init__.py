"""Report of a workdir: status of its runs, tables, figures and page templates.

`experiments.report` is the command line.
"""
