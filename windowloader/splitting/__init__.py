"""Parts of a split: how people say them, how windows are dealt to them, what they share."""
