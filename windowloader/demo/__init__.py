"""Runs ``windowloader demo``: from a file to a trained graph network, with its errors, speed and memory.

In: a series, or generated traffic. Out: figures, tables and a picture. The only part of the package that has a model.
"""
