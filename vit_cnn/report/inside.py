"""A look inside trained networks; takes ``best.pt`` and the images."""

import torch
from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_cnn.data import Dataset, evenly
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import cls_attention, mean_distance, rollout
from vit_cnn.run.pictures import Picture, enlarge, first_layer_filters, from_unit, spotlight, tile, with_headings
from vit_cnn.run.trained import TrainedRun

WATCHED = 6  # images whose attention is drawn
MEASURED = 128  # images over which attention distances are averaged


@torch.no_grad()
def attention(run: TrainedRun, data: Dataset) -> Picture:
    """A row for each image: the image, CLS's attention by each head of the last layer, rollout; with headings."""
    assert isinstance(run.model, ViT)
    watched = data.val.images[evenly(len(data.val), WATCHED)]
    maps = run.model.attention_maps(run.normalised(watched))
    cells: list[Picture] = []
    for image, heads, flow in zip(from_unit(watched / 255), cls_attention(maps), rollout(maps), strict=True):
        large = enlarge(image, max(1, 96 // image.shape[0]))
        cells += [large, *(spotlight(large, head) for head in heads), spotlight(large, flow)]
    columns = len(cells) // len(watched)
    names = ["image", *(f"head {number}" for number in range(1, columns - 1)), "rollout"]
    return with_headings(tile(cells, columns=columns, gap=4), names)


@torch.no_grad()
def distances(run: TrainedRun, data: Dataset, colour: str) -> Figure:
    """Mean attention distance of each head, by layer."""
    assert isinstance(run.model, ViT)
    measured = data.val.images[evenly(len(data.val), MEASURED)]
    maps = run.model.attention_maps(run.normalised(measured))
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for layer, heads in enumerate(mean_distance(maps, patch_size=run.model.patch_size).tolist(), start=1):
        axes.scatter([layer] * len(heads), heads, color=colour, alpha=0.7)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean attention distance, pixels")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure


def positions(run: TrainedRun) -> Figure:
    """Cosine similarity of each position embedding with all others, laid out like the patches."""
    assert isinstance(run.model, ViT)
    side = run.image_size // run.model.patch_size
    directions = torch.nn.functional.normalize(run.model.positions[1:], dim=1)
    alike = rearrange(directions @ directions.T, "(h w) (h2 w2) -> (h h2) (w w2)", h=side, h2=side)
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    limit = float(
        (alike - rearrange(torch.eye(side**2), "(h w) (h2 w2) -> (h h2) (w w2)", h=side, h2=side)).abs().max()
    )
    shown = axes.imshow(alike.numpy(), cmap="coolwarm", vmin=-limit, vmax=limit)
    for line in range(1, side):
        axes.axhline(line * side - 0.5, color="white", linewidth=1)
        axes.axvline(line * side - 0.5, color="white", linewidth=1)
    axes.axis("off")
    figure.colorbar(shown, label="cosine similarity", shrink=0.8)
    return figure


def filters(run: TrainedRun) -> Picture | None:
    """What the first layer looks for."""
    found = first_layer_filters(run.model)
    if not found:
        return None
    return enlarge(tile(found, columns=min(32, max(8, len(found) // 8)), gap=1), max(1, 24 // found[0].shape[0]))
