"""Losses as the classes of a framework: `arrayloss.nn.torch`. JAX, Flax and Equinox users call the functions."""
