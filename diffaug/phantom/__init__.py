"""Breast MRI phantoms: a seeded anatomy, two scanners, whole-breast masks."""
