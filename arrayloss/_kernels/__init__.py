"""The formulas, in the array API alone; `ops.py` has the protocols, and what a library may do its own way."""
