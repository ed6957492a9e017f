"""What users met: each fault that was found from outside, with the rest of its kind, as a test of the right answer."""
