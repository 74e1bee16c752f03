"""The one training loop that all three fits share."""
