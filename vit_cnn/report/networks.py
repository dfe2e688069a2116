"""The images and the networks: examples, layer by layer, and a look inside what was trained."""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from vit_cnn.config.network import build_network
from vit_cnn.data import Dataset
from vit_cnn.errors import Refused, first_line, limit_reached
from vit_cnn.models import ViT
from vit_cnn.models.size import layers_of
from vit_cnn.report import inside
from vit_cnn.report.page import Page
from vit_cnn.run.pictures import Picture, enlarge, from_unit, tile
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import TrainedRun, load_run


def add_data(page: Page, runs: list[Run], data: Dataset | None) -> None:
    page.section("Images and networks")
    if data:
        about = data.describe()
        counts = f"{about['train']:,} training, {about['val']:,} validation and {about['test']:,} test images"
        page.text(f"{data.name} ({data.source}): {counts}, fingerprint {data.fingerprint}.")
        rows = min(10, len(data.classes))
        chosen = [(data.train.labels == label).nonzero()[:10, 0] for label in range(rows)]
        ten = [torch.nn.functional.pad(each, (0, 10 - len(each)), value=int(each[0])) for each in chosen]
        samples = from_unit(data.train.images[torch.cat(ten)] / 255)
        which = "each class" if rows == len(data.classes) else f"each of the first {rows} classes"
        caption = f"Ten of {which}: {', '.join(data.classes[:rows])}."
        page.picture("samples", tile(samples, columns=10), caption=caption, enlarged=2)
        vit = next((run for run in runs if run.model == "ViT"), None)
        if vit:
            p = vit.config["model"]["patch_size"]
            image = data.train.images[:1] / 255
            patches = from_unit(rearrange(image, "1 c (h p1) (w p2) -> (h w) c p1 p2", p1=p, p2=p))
            side = image.shape[-1] // p
            caption = f"One image, and its {side**2} patches of {image.shape[1] * p * p} numbers: what the ViT reads."
            cut = tile([enlarge(patch, 8) for patch in patches], columns=side, gap=4)
            page.picture("patches", cut, caption=caption)
    for model in dict.fromkeys(run.model for run in runs):
        run = next(run for run in runs if run.model == model)
        settings = run.config["data"]
        try:
            network = build_network(OmegaConf.create(run.config["model"]))
        except Refused as error:
            page.text(f"{run.label} is left out: {error}")
            continue
        batch = run.config["recipe"]["batch_size"]
        images = torch.zeros(batch, settings["num_channels"], settings["image_size"], settings["image_size"])
        layers = layers_of(network, images)
        rows_ = [
            [layer.name, layer.kind, f"{layer.params:,}", str(layer.in_sizes or "–"), str(layer.out_sizes or "–")]
            for layer in layers
        ]
        page.heading(f"{run.label}: {layers[0].params:,} parameters, {layers[0].params * 4 / 1e6:.3f} MB")
        page.table(f"sizes_{model.lower()}", ["name", "type", "parameters", "in sizes", "out sizes"], rows_)


def add_inside(page: Page, best: dict[str, list[Run]], data: Dataset, colours: dict[str, str], *, trust: str) -> None:
    page.section("Inside the networks", "One seed of the best setting of each; validation images.")
    for label, group in best.items():
        try:
            run: TrainedRun = load_run(group[0].folder, trust=trust)
        except Refused as error:
            page.text(f"{label} is left out: {error}")
            continue
        page.heading(label)
        name = group[0].model.lower()
        caption = "What the first layer looks for; grey is 0."
        add_picture(page, f"filters_{name}", partial(inside.filters, run), caption)
        if isinstance(run.model, ViT):
            of = "" if name == "vit" else f"_{name}"
            caption = "Where CLS looks, by head of the last layer; on the right attention rollout. Yellow: most."
            add_picture(page, f"attention{of}", partial(inside.attention, run, data), caption)
            caption = "How far each head looks, by layer."
            add_picture(page, f"attention_distance{of}", partial(inside.distances, run, data, colours[label]), caption)
            caption = "How alike the position embeddings are: each small map shows one position against all."
            add_picture(page, f"positions{of}", partial(inside.positions, run), caption)


def add_picture(page: Page, name: str, draw: Callable[[], Figure | Picture | None], caption: str) -> None:
    """A picture; a line in its place where it cannot be drawn, as for a subclass of our ViT with other tokens."""
    try:
        picture = draw()
    except Exception as error:  # whatever is not as in our ViT
        if limit_reached(error):
            raise
        page.text(f"{name} is left out: {first_line(error)}")
        return
    if picture is not None:
        page.picture(name, picture, caption=caption)
