"""Pictures and tables of a run for Weights & Biases. Drawing them uses no random number: the run stays the same.

They show training and validation images only: what one looks at while improving must not be the test split.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vit_cnn.config.schema import Media as Switches
from vit_cnn.data import Dataset, evenly
from vit_cnn.data.batches import normalise
from vit_cnn.errors import first_line
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import cls_attention
from vit_cnn.run.pictures import Picture, enlarge, first_layer_filters, from_normalised, from_unit, spotlight, tile
from vit_cnn.run.wandb_run import WandbRun

log = logging.getLogger(__name__)

INPUTS = 64  # images of the first batch
WATCHED = 8  # validation images whose attention is drawn again and again
MISTAKES = 32
MOST_CLASSES = 100  # of a confusion matrix: W&B draws it from a table with a row for each cell


class Media:
    """Draws what ``switches`` ask for, while W&B is on; what cannot be drawn is left out.

    Args:
        wandb: the run to log to.
        switches: ``wandb.media`` of the config.
    """

    def __init__(self, *, wandb: WandbRun, switches: Switches, data: Dataset) -> None:
        self.wandb = wandb
        self.switches = switches
        self.data = data

    def log(self, switch: bool, step: int, draw: Callable[[], dict[str, Any]]) -> None:
        if switch:
            self.wandb.attempt("media", lambda: self.wandb.run.log(drawn(draw), step=step))

    def inputs(self, images: Tensor) -> None:
        """The first batch [b, c, h, w] of the run as the network sees it, after augmentation."""

        def draw() -> dict[str, Any]:
            pictures = from_normalised(images[:INPUTS], self.data.mean, self.data.std)
            return {"inputs": image_of(tile(pictures, columns=8), enlarged=4)}

        self.log(self.switches.inputs, 0, draw)

    def inside(self, model: nn.Module, *, step: int, epoch: float, is_last: bool) -> None:
        """Filters and attention after epochs 1, 2, 4, 8, … and the last: cheap, however many epochs there are."""
        if is_last or (epoch.is_integer() and int(epoch).bit_count() == 1):
            self.log(self.switches.filters, step, lambda: self.filters(model))
            self.log(self.switches.attention, step, lambda: self.attention(model))

    def filters(self, model: nn.Module) -> dict[str, Any]:
        filters = first_layer_filters(model)
        return {"filters": image_of(tile(filters, columns=16, gap=1), enlarged=8)} if filters else {}

    @torch.no_grad()
    def attention(self, model: nn.Module) -> dict[str, Any]:
        """The same few validation images, and below them where CLS looks in the last layer, mean over the heads."""
        if not isinstance(model, ViT):
            return {}
        watched = self.data.val.images[evenly(len(self.data.val), WATCHED)]
        was_training = model.training
        maps = model.eval().attention_maps(normalise(watched, self.data.mean, self.data.std))
        model.train(was_training)
        images = from_unit(watched / 255)
        looks = [spotlight(image, look) for image, look in zip(images, cls_attention(maps).mean(dim=1), strict=True)]
        return {"attention": image_of(tile(images + looks, columns=len(images)), enlarged=4)}

    def predictions(self, logits: Tensor, *, step: int) -> None:
        """From validation logits [n, classes]: confusion matrix, accuracy by class, the most confident mistakes."""
        confidence, predicted = logits.softmax(dim=1).cpu().max(dim=1)
        truth = self.data.val.labels.cpu()
        few_classes = len(self.data.classes) <= MOST_CLASSES
        self.log(self.switches.confusion and few_classes, step, lambda: self.confusion(truth, predicted))
        self.log(self.switches.per_class, step, lambda: self.per_class(truth, predicted))
        self.log(self.switches.mistakes, step, lambda: self.mistakes(truth, predicted, confidence))

    def confusion(self, truth: Tensor, predicted: Tensor) -> dict[str, Any]:
        import wandb

        names = self.data.classes
        chart = wandb.plot.confusion_matrix(y_true=truth.tolist(), preds=predicted.tolist(), class_names=names)
        return {"val/confusion": chart}

    def per_class(self, truth: Tensor, predicted: Tensor) -> dict[str, Any]:
        import wandb

        right = (predicted == truth).double()
        rows = [[name, right[truth == label].mean().item()] for label, name in enumerate(self.data.classes)]
        table = wandb.Table(columns=["class", "accuracy"], data=rows)
        return {"val/per_class": wandb.plot.bar(table, "class", "accuracy", "Validation accuracy")}

    def mistakes(self, truth: Tensor, predicted: Tensor, confidence: Tensor) -> dict[str, Any]:
        import wandb

        wrong = (predicted != truth).nonzero()[:, 0]
        worst = wrong[confidence[wrong].argsort(descending=True)[:MISTAKES]]
        pictures = from_unit(self.data.val.images[worst.to(self.data.val.images.device)] / 255)
        names = self.data.classes
        rows = [
            [image_of(picture, enlarged=2), names[truth[i]], names[predicted[i]], confidence[i].item()]
            for picture, i in zip(pictures, worst.tolist(), strict=True)
        ]
        return {"val/mistakes": wandb.Table(columns=["image", "truth", "prediction", "confidence"], data=rows)}


def image_of(picture: Picture, *, enlarged: int) -> Any:
    import wandb

    return wandb.Image(enlarge(picture, enlarged))


def drawn(draw: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``draw`` gives; nothing where it fails, as for a network of one's own that a picture does not know."""
    try:
        return draw()
    except Exception as error:
        log.warning("A picture for W&B is left out: %s", first_line(error))
        return {}
