"""Experiments, run on demand from the project's root: python -m benchmarks.NAME."""
