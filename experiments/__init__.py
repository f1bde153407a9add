"""Experiments, one folder each; `python -m experiments` lists them, `python -m experiments 0015 ...` runs one."""
