"""The networks. Each constructor is the schema of its file in ``conf/model``."""

from vit_cnn.models.cnn import CNN
from vit_cnn.models.vit import ViT

__all__ = ["CNN", "ViT"]
