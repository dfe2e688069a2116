"""Data sets as uint8 tensors. Each source is the schema of its files in ``conf/data``."""

from vit_cnn.data.dataset import Dataset, Split, evenly
from vit_cnn.data.sources import cifar, digits, folder

__all__ = ["Dataset", "Split", "cifar", "digits", "evenly", "folder"]
