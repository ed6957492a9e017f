"""The formulas, in the array API alone; `ops.py` has the interfaces, and the operations that a library may replace."""
