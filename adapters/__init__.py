"""Adapters that bind the loader to a framework's loop; they compute nothing themselves."""
