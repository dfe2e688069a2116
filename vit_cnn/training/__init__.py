"""The training loop and its pieces. Begin with ``loop.py``."""
