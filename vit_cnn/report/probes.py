"""What ``vit-cnn probe`` has found about the same runs: its sentences and figures, read from its files."""

import io
from pathlib import Path

from PIL import Image
from rich.text import Text

from vit_cnn.console import console
from vit_cnn.errors import one_line, shown
from vit_cnn.report.page import Page
from vit_cnn.run.reading import Run


def add_probes(page: Page, runs: list[Run], folder: Path) -> None:
    """A section of the findings in ``folder`` that are about ``runs`` or some of them; none, no section."""
    here = {run.folder.resolve() for run in runs}
    found, others = [], []
    for path in sorted(folder.glob("*.txt")):
        try:
            verdict, *probed = path.read_text(encoding="utf-8").splitlines() or [""]
            if not verdict:
                raise ValueError("its first line, the verdict, is empty")
            if not probed or not {Path(each).resolve() for each in probed} <= here:
                others.append(path)
                continue
            figure = path.with_suffix(".png").read_bytes()
            Image.open(io.BytesIO(figure)).verify()
            is_old = any((Path(each) / "result.json").stat().st_mtime > path.stat().st_mtime for each in probed)
            found.append((path, verdict, figure, is_old))
        except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a damaged PNG
            console.print(Text(f"{shown(path)} is left out: {one_line(error)}"), soft_wrap=True)
    if others:
        are = "is" if len(others) == 1 else f"and {len(others) - 1} more are"
        console.print(Text(f"{shown(others[0])} {are} about other runs and left out."), soft_wrap=True)
    if not found:
        return
    page.section("Probes", "Claims about the networks put to the test by vit-cnn probe. Intervals are of 95 %.")
    for path, verdict, figure, is_old in found:
        page.heading(path.stem)
        page.text(verdict)
        if is_old:
            page.text("A run is newer than this finding: if it went on since, probe again.")
        page.figure_file(f"probe_{path.stem}", figure, caption=f"The figure of vit-cnn probe {path.stem}.")
