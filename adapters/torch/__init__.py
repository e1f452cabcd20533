"""What `windowloader.adapters.pytorch` is made of: batches, data sets, the loader, and rows that live on a device."""
