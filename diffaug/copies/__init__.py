"""Copies of training scans: what they may look like, how they are looked for, and how well that works."""
