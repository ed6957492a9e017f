"""Time and memory of the losses, beside each library's own: `python -m benchmarks`."""
