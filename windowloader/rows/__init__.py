"""From storage to addresses: rows in memory, in blocks, or read directly.

In: which rows a batch reads. Out: arrays that hold them, within a budget of memory. Never knows of batches.
"""
