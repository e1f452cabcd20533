"""What graphs are read from: edge lists and the files that hold them."""
