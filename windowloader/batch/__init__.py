"""Builds a batch from rows: recipe, compiled kernels, buffers, `Batch`.

In: addresses of rows and starts of windows. Out: scaled arrays. Never reads storage.
"""
