"""The answers as HTML: the image, and a card for each network. Everything is in the text; nothing is loaded."""

import base64
import html
import io
import urllib.parse
from pathlib import Path

from PIL import Image
from torch import Tensor

from vit_cnn.play.answers import Answer
from vit_cnn.play.contenders import Contender
from vit_cnn.play.gallery import Shown
from vit_cnn.run.pictures import Picture, from_unit

CSS = (Path(__file__).parent / "page.css").read_text()
FEW = 10  # classes, of which all are shown in their own order: bars that stay in place are easy to follow
MOST = 6  # of more classes, the most probable


def header_html(contenders: list[Contender]) -> str:
    """Which runs are on the page, and what to do with it."""
    names = " and ".join(html.escape(each.name) for each in contenders)
    lines = "".join(
        f'<li style="--colour:{each.colour}"><strong>{html.escape(each.name)}</strong> {html.escape(each.found.about)}'
        f" <small>{html.escape(str(each.found.folder))}</small></li>"
        for each in contenders
    )
    data = html.escape(contenders[0].found.data)
    return (
        f'<header class="play"><h1>{names} on {data}</h1><ul>{lines}</ul>'
        "<p>Choose an image, or bring your own, and change it: the answers follow while you drag.</p></header>"
    )


def answers_html(
    shown: Shown,
    pixels: Tensor,
    answers: list[Answer],
    contenders: list[Contender],
    *,
    link: dict[str, str],
    notice: str = "",
) -> str:
    """The image as it is and as the networks see it (``pixels``, uint8 [1, c, h, w]), and what they say.

    Args:
        link: what the address of this view holds; empty for one's own image, which has none.
        notice: what went wrong, in a line.
    """
    classes = contenders[0].network.classes
    cards = "".join(card(each, answer, classes, shown.label) for each, answer in zip(contenders, answers, strict=True))
    warning = f'<p class="notice" role="alert">{html.escape(notice)}</p>' if notice else ""
    return f'{warning}<div class="answers">{image_card(shown, pixels, classes, link)}{cards}</div>'


def image_card(shown: Shown, pixels: Tensor, classes: list[str], link: dict[str, str]) -> str:
    truth = f"<strong>{html.escape(classes[shown.label])}</strong>, " if shown.label is not None else ""
    address = f'<a href="?{html.escape(urllib.parse.urlencode(link))}">link to this view</a>' if link else ""
    before, after = (from_unit(each / 255)[0] for each in (shown.pixels, pixels))
    return (
        f'<figure class="image"><div><img decoding="sync" src="{data_uri(before)}" alt="the image as it is">'
        f'<img decoding="sync" src="{data_uri(after)}" alt="the image as the networks see it"></div>'
        f"<figcaption>{truth}{html.escape(shown.name)}. Left as it is, right as the networks see it. {address}"
        "</figcaption></figure>"
    )


def card(contender: Contender, answer: Answer, classes: list[str], truth: int | None) -> str:
    said, verdict = classes[answer.label], ""
    if truth is not None:
        verdict = '<em class="yes">right</em>' if answer.label == truth else '<em class="no">wrong</em>'
    chosen = list(range(len(classes)))
    if len(classes) > FEW:
        chosen = sorted(chosen, key=answer.probabilities.__getitem__, reverse=True)[:MOST]
    bars = "".join(bar(classes[label], answer.probabilities[label], label == answer.label) for label in chosen)
    return (
        f'<article class="network" style="--colour:{contender.colour}">'
        f"<h2>{html.escape(contender.name)}</h2>"
        f'<p class="said"><strong>{html.escape(said)}</strong> {answer.probabilities[answer.label]:.0%} {verdict}</p>'
        f'<figure><img decoding="sync" src="{data_uri(answer.picture)}" alt="{html.escape(answer.caption)}">'
        f"<figcaption>{html.escape(answer.caption)}</figcaption></figure><ol>{bars}</ol></article>"
    )


def bar(name: str, probability: float, is_most: bool) -> str:
    marked = ' class="most"' if is_most else ""
    return (
        f'<li{marked}><span class="name">{html.escape(name)}</span><span class="track">'
        f'<span style="width:{100 * probability:.1f}%"></span></span><span class="share">{probability:.0%}</span></li>'
    )


def data_uri(picture: Picture) -> str:
    Image.fromarray(picture).save(file := io.BytesIO(), "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
