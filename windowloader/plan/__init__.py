"""What an epoch will read, and the memory that it takes, worked out before it begins: `Plan`.

In: a loader's settings. Out: numbers. Never reads rows.
"""
