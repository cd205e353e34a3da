"""The algorithm: networks, losses, gradient steps, and the replay they learn from."""
