"""Scans in, scans out: nnU-Net raw datasets, the canonical grid and its exact inverse."""
