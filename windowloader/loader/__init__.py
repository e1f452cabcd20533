"""`WindowLoader`: batches in order, made ahead by threads, resumable, counted.

In: a window set and options. Out: batches. The last of the folders that a loop needs.
"""
