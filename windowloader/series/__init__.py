"""What rows mean: a `Series` has values, nodes, time and a graph.

In: sources, labels, times, graphs, covariates. Out: `Series`, made by `open`; everything that has labels or times is
aligned here. Never knows of windows.
"""
