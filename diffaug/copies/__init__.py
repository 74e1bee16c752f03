"""Copies of training scans: what they may look like, the embedding that sees them, the detector that names them."""
