"""Compiles the MJX engine for a GPU that is not there, and counts what it would do there."""
