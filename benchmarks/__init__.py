"""How fast and how large the losses are beside each library's own: `python -m benchmarks`."""
