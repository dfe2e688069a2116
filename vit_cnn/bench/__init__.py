"""Speed next to others; not needed for training."""
