"""Rows that are not in memory: blocks, the arena that holds them, what is read when."""
