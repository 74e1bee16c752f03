"""The stages fit, sample, audit and pretrain: the only place that locks, compares, goes on, finishes and calls a stage."""
