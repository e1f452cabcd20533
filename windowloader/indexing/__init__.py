"""Which rows may begin a window: segments, gaps, missing data, kept as runs, bitmaps or lists."""
