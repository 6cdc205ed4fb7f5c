"""Benchmarks: ratios, each measured against something else in the same run on the same machine."""
