"""Losses as the classes of a framework: `arrayloss.nn.torch`. JAX, Flax and Equinox users call the functions."""

import importlib


def __getattr__(name: str) -> object:
    if name == "torch":
        return importlib.import_module("arrayloss.nn.torch")
    raise AttributeError(f"module 'arrayloss.nn' has no attribute {name!r}")
