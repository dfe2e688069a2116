"""Arrays in a ``.npz`` file, read so that damage is noticed and nothing in the file is run."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays in ``path``, by name; their checksums are read, which ``np.load`` alone need not do.

    Raises:
        Exception: zip and array readers raise many kinds for a damaged or hostile file; the caller names it.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} in it is wrong")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
