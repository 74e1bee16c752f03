"""A reader study: people who read scans grade real and synthetic volumes, not knowing which is which."""
