"""Benchmarks: one harness, case lists as data, rows in results/."""
