"""Two networks to play with, hardly trained, a stage for them, and files that are no images."""

import struct
import zlib
from pathlib import Path

from helpers import composed, run

from vit_cnn.play.stage import Stage, stage_of
from vit_cnn.training.loop import train

BROKEN = {
    "renamed.png": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "empty.jpg": b"",
    "huge.png": b"\x89PNG\r\n\x1a\n",  # 60,000 × 60,000 pixels; made whole below
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BROKEN["huge.png"] += chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
BROKEN["huge.png"] += chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def train_both(folder: Path) -> Path:
    """A ViT in ``folder/vit`` and a CNN in ``folder/cnn``; returns ``folder``."""
    run(str(folder / "vit"))
    (folder / "cnn").mkdir()
    options = ["data=digits", "data.max_images=160", "recipe.batch_size=30", "recipe.epochs=1", "trainer=cpu"]
    train(composed("model=cnn", *options), folder / "cnn")
    return folder


def on_stage(*folders: Path, split: str = "val") -> Stage:
    return stage_of(list(folders), split=split, device="cpu", trust="")
