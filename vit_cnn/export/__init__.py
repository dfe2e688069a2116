"""A finished run as a folder for others: weights, programs that need nothing of this package, and a model card."""
