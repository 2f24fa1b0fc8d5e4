"""Generator of the documentation site: `python -m tools.docs` (or `make docs`).

The pages in `docs/` are copied to `build/docs` with their links rewritten, the reference is
generated from the code, and Zensical builds `site/` from both (`mkdocs.yml`).
"""
