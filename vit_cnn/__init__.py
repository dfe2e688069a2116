"""Compare a Vision Transformer with a CNN on small images."""

__version__ = "0.1.0"
