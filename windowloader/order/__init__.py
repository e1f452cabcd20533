"""In what order windows are taken, and by which rank: the keyed permutation, blocks, lanes, shards, state.

In: a number of windows, edges of chunks, a seed. Out: positions. Pure functions; never reads.
"""
