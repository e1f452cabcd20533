"""The benchmark: batches of the same windows by every means a user would pick, measured side by side.

``sizes`` makes the data, ``cases`` are the means, ``worker`` runs one in a process of its own, ``rounds`` lets them
take turns, ``tables`` and ``pictures`` say what came out.
"""
