"""Statistics of the rows that a window set reads, and the scalers made of them.

In: a window set. Out: `StandardScaler`, `MinMaxScaler`, `RobustScaler`. Never sees a row outside its window set.
"""
