"""`WindowLoader`: batches in order, prefetched by threads, resumable, counted.

In: a window set and options. Out: batches. The last of the folders that a loop needs.
"""
