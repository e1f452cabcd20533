"""What people look at: inspections, previews, plots, tables in notebooks.

In: series, splits, plans, statistics. Out: text and pictures. Never changes them.
"""
