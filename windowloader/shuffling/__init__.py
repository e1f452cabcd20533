"""Orders as pure functions: the keyed permutation, lanes of blocks, and how well they mix."""
