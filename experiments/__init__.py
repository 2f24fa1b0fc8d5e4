"""Experiments of several runs, and what is drawn from them."""
