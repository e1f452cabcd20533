"""Measures the loader on this machine: beside memcpy of the same bytes, and beside its own plan.

In: windows. Out: figures. Comparisons with other libraries are in ``tests/benchmarks``.
"""
