"""From rows and starts to the arrays of a batch: recipes, loops and compiled kernels."""
