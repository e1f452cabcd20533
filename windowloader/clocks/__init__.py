"""Timestamps as runs, clock features compiled, moments as people write them."""
