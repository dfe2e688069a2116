"""The report: one HTML page that opens from disk, with its figures and tables as files beside it."""

import base64
import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.figure import Figure
from PIL import Image
from plotly.offline import get_plotlyjs

from vit_cnn.run.pictures import Picture

LONG = 40  # characters from which a column is text that wraps
STYLE = """
:root { --ink: #1d2733; --soft: #5b6773; --line: #dde3ea; --accent: #2a6fb0; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 1rem 0; }
a { color: var(--accent); }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
img.pixels { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
caption { caption-side: bottom; text-align: left; padding-top: .3rem; }
th, td { padding: .3rem .65rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.words { white-space: normal; text-align: left; min-width: 14rem; }
.yes { color: #1d7a3d; font-weight: 600; } .no { color: #b3261e; font-weight: 600; }
@media (max-width: 40rem) { body { padding: 1.2rem .8rem; font-size: 15px; } th, td { padding: .3rem .5rem; } }
"""


class Page:
    """Collects sections, and writes each figure and table as a file of its own too.

    Args:
        folder: for ``report.html`` and what stands beside it.
    """

    def __init__(self, *, folder: Path, title: str, subtitle: str) -> None:
        self.folder = folder
        self.title = title
        self.subtitle = subtitle
        self.parts: list[str] = []
        self.sections: list[tuple[str, str]] = []
        self.has_plotly = False
        folder.mkdir(parents=True, exist_ok=True)

    def section(self, title: str, text: str = "") -> None:
        anchor = title.lower().replace(" ", "-")
        self.sections.append((anchor, title))
        self.parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>')
        self.text(text)

    def heading(self, title: str) -> None:
        self.parts.append(f"<h3>{html.escape(title)}</h3>")

    def text(self, text: str) -> None:
        if text:
            self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        """A table, also as ``<name>.csv`` and ``<name>.md``; yes and no are coloured."""
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([headings, *rows])
        lines = [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]
        (self.folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

        columns = list(zip(*rows, strict=True))
        kinds = ["words" if max(map(len, column)) > LONG else "" for column in columns] or [""] * len(headings)

        def cell(value: str, kind: str) -> str:
            verdict = f" {value}" if value in ("yes", "no") else ""
            return f'<td class="{kind}{verdict}">{html.escape(value)}</td>'

        pairs = zip(headings, kinds, strict=True)
        head = "".join(f'<th class="{kind}">{html.escape(heading)}</th>' for heading, kind in pairs)
        body = "".join(f"<tr>{''.join(map(cell, row, kinds))}</tr>" for row in rows)
        about = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        self.parts.append(f'<div class="scroll"><table>{about}<tr>{head}</tr>{body}</table></div>')

    def picture(self, name: str, figure: Figure | Picture, caption: str, *, enlarged: int = 1) -> None:
        """A figure, also as ``<name>.png``; arrays of pixels are shown with sharp edges."""
        content = io.BytesIO()
        if isinstance(figure, Figure):
            figure.savefig(content, format="png", dpi=110)
            size, kind = "", ""
        else:
            Image.fromarray(figure).save(content, format="PNG", optimize=True)
            size, kind = f' width="{figure.shape[1] * enlarged}"', ' class="pixels"'
        (self.folder / f"{name}.png").write_bytes(content.getvalue())
        data = base64.b64encode(content.getvalue()).decode()
        self.parts.append(
            f'<figure id="{name}"><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}"{size}{kind}>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def plot(self, name: str, figure: go.Figure, caption: str) -> None:
        """A figure that answers to the mouse."""
        self.has_plotly = True
        options = {"include_plotlyjs": False, "config": {"displayModeBar": False, "responsive": True}}
        drawn = figure.to_html(full_html=False, div_id=f"plot-{name}", default_height="720px", **options)
        self.parts.append(f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def write(self) -> Path:
        links = "".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, title in self.sections)
        script = f"<script>{get_plotlyjs()}</script>" if self.has_plotly else ""
        path = self.folder / "report.html"
        path.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{html.escape(self.title)}</title><style>{STYLE}</style>{script}'
            f'</head><body><h1>{html.escape(self.title)}</h1><p class="soft">{html.escape(self.subtitle)}</p>'
            f"<nav>{links}</nav>{''.join(self.parts)}</body></html>\n",
            encoding="utf-8",
        )
        return path
