"""What was tried and did not help: pretexts that beat nothing, runnable, and the results of these, of self-training and of
trainings too short to need a pretraining.

Importing `benchmarks.tried.pretexts` adds its pretexts to those of diffaug, for `python -m benchmarks.scarce_labels`.
"""
