"""What every folder uses: axes, units, exact sums, ranks, process-local handles, numba's decorator.

In and out: plain values. Never knows of sources, windows or batches.
"""
