"""ViT against CNN, from run folders: ``python -m vit_cnn.report runs/a runs/b``."""
