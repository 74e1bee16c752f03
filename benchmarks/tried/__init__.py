"""What was tried and did not help: pretexts that beat nothing and self-training, runnable, with their results.

Importing `benchmarks.tried.pretexts` adds its pretexts to those of diffaug, for `python -m benchmarks.scarce_labels`.
"""
