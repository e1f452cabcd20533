"""Which rows make a window: `WindowSpec`, `WindowSet`, splits and their audit, gaps and missing data.

In: a series. Out: the starts of windows and what each reads. Never reads rows, except to find what is missing.
"""
