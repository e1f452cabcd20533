"""What rows mean: a `Series` has variables over one clock and one space, labels and a graph.

In: sources, labels, times, graphs, covariates. Out: `Series`, built by `open` and aligned by labels and times. Reads no
values and knows nothing of windows.
"""
