"""Cut photographs into pieces of different sizes, for trying data=folder: python cut.py writes my_images/."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

generator = np.random.default_rng(0)
for name in ("china", "flower"):
    photograph = load_sample_image(f"{name}.jpg")
    folder = Path("my_images") / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(80):
        h, w = generator.integers(90, 331, size=2)
        y, x = (generator.integers(whole - part + 1) for whole, part in zip(photograph.shape, (h, w), strict=False))
        Image.fromarray(photograph[y : y + h, x : x + w]).save(folder / f"{number:02}.jpg")
