"""How good and how private synthetic volumes are: fidelity, diversity, memorisation, the report."""
