"""Benchmarks: ratios, each measured against something else in the same run on the same machine.

`docs/performance.md` says what is compared with what, and why that is fair.
"""
