"""The families of sources: memory, mapped files, chunked stores, HDF5, tables, joined."""
