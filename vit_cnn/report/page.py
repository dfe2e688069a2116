"""The report's content, section by section; ``page.html`` and ``page.css`` beside this file say how it looks.

Each table and figure becomes a file of its own too, beside ``report.html``.
"""

import base64
import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from plotly.offline import get_plotlyjs

from vit_cnn.run.files import remove_torn, write_atomically
from vit_cnn.run.pictures import Picture

NAME = "report.html"
LONG = 40  # characters from which a column is text that wraps
CSS_PIXELS = 96  # to the inch
SHARP = 2  # pixels of a figure's file to a CSS pixel


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, an explaining text, and what follows; ``kind`` of a part names its block in ``page.html``."""

    title: str
    text: str
    parts: list[dict[str, Any]]

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


class Page:
    """Collects sections, then writes the page.

    Args:
        folder: for ``report.html`` and what stands beside it.
        conclusion: what the runs show, in a sentence.
    """

    def __init__(self, *, folder: Path, title: str, subtitle: str, conclusion: str) -> None:
        self.folder = folder
        self.head = {"title": title, "subtitle": subtitle, "conclusion": conclusion}
        self.sections: list[Section] = []
        folder.mkdir(parents=True, exist_ok=True)

    def section(self, title: str, text: str = "") -> None:
        self.sections.append(Section(title, text, []))

    def add(self, kind: str, **content: Any) -> None:
        self.sections[-1].parts.append({"kind": kind, **content})

    def heading(self, text: str) -> None:
        self.add("heading", text=text)

    def text(self, text: str) -> None:
        self.add("text", text=text)

    def table(
        self, name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", *, folded: str = ""
    ) -> None:
        """A table, also as ``<name>.csv`` and ``<name>.md``; with ``folded``, behind a line of that text."""
        self.write_files(name, headings, rows)
        wraps = [max(map(len, column)) > LONG for column in zip(*rows, strict=True)]
        self.add("table", name=name, headings=headings, rows=rows, wraps=wraps, caption=caption, folded=folded)

    def write_files(self, name: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The files of a table alone."""
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([headings, *rows])
        escaped = [[cell.replace("|", r"\|") for cell in cells] for cells in (headings, *rows)]
        lines = [f"| {' | '.join(cells)} |" for cells in (escaped[0], ["---"] * len(headings), *escaped[1:])]
        (self.folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def picture(
        self, name: str, *panels: Figure | Picture, caption: str, columns: int | None = None, enlarged: int = 1
    ) -> None:
        """One or more panels, which the page puts below one another where it is narrow; also as ``<name>.png``.

        Args:
            columns: of the panels in the file; ``None`` puts all side by side.
            enlarged: an array of pixels is shown with sharp edges, so many times its size.
        """
        images = [image_of(panel) for panel in panels]
        contents = [png(image) for image in images]
        whole = contents[0] if len(images) == 1 else png(joined(images, columns or len(images)))
        (self.folder / f"{name}.png").write_bytes(whole)
        is_pixels = not isinstance(panels[0], Figure)
        scale = enlarged if is_pixels else 1 / SHARP
        shown = [
            {"data": base64.b64encode(content).decode(), "width": round(image.width * scale)}
            for content, image in zip(contents, images, strict=True)
        ]
        self.add("picture", name=name, panels=shown, caption=caption, is_pixels=is_pixels)

    def figure_file(self, name: str, content: bytes, *, caption: str) -> None:
        """A figure that was drawn before, as a PNG file, in the size on paper that it names; also as ``<name>.png``."""
        (self.folder / f"{name}.png").write_bytes(content)
        image = Image.open(io.BytesIO(content))
        width = round(image.width * CSS_PIXELS / image.info.get("dpi", [CSS_PIXELS])[0])
        panel = {"data": base64.b64encode(content).decode(), "width": width}
        self.add("picture", name=name, panels=[panel], caption=caption, is_pixels=False)

    def plot(self, name: str, figure: go.Figure, caption: str) -> None:
        """A figure that answers to the mouse."""
        options = {"include_plotlyjs": False, "config": {"displayModeBar": False, "responsive": True}}
        drawn = figure.to_html(full_html=False, div_id=f"plot-{name}", default_height="720px", **options)
        self.add("plot", html=Markup(drawn), caption=caption)  # Plotly escapes what it writes into its script

    def write(self) -> Path:
        here = Path(__file__).parent
        environment = Environment(
            loader=FileSystemLoader(here),
            autoescape=True,  # class names, messages and folder names come from files
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        has_plot = any(part["kind"] == "plot" for section in self.sections for part in section.parts)
        text = environment.get_template("page.html").render(
            **self.head,
            sections=self.sections,
            style=Markup((here / "page.css").read_text(encoding="utf-8")),
            script=Markup(get_plotlyjs()) if has_plot else "",
        )
        path = self.folder / NAME
        remove_torn(self.folder, NAME)
        write_atomically(path, lambda file: file.write(text.encode()))
        return path


def image_of(panel: Figure | Picture) -> Image.Image:
    if not isinstance(panel, Figure):
        return Image.fromarray(panel)
    content = io.BytesIO()
    panel.savefig(content, format="png", dpi=SHARP * CSS_PIXELS)
    return Image.open(content).convert("RGB")


def joined(images: list[Image.Image], columns: int) -> Image.Image:
    """Images in rows of ``columns``, on white."""
    width, height = max(image.width for image in images), max(image.height for image in images)
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (width * min(columns, len(images)), height * rows), "white")
    for position, image in enumerate(images):
        canvas.paste(image, (position % columns * width, position // columns * height))
    return canvas


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
