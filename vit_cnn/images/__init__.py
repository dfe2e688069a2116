"""Image files on disk: folders of them, one file, all of them as uint8 arrays. Does not import torch."""
