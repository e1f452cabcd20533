"""Statistics of the rows a window set holds, and the scalers made of them."""
