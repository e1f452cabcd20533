"""Shows series, splits, plans and statistics to people: descriptions, previews, pictures, notebook tables.

In: series, splits, plans, statistics. Out: text and pictures. Never changes them.
"""
