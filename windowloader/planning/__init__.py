"""What an epoch will take, worked out before it begins: the parts of a plan."""
