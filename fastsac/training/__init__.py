"""The training loop and what surrounds it: configuration, evaluation, saving, and their order."""
