"""Logits of a whole split, and what they are worth."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_cnn.data import Dataset, Split
from vit_cnn.data.batches import normalise
from vit_cnn.processes.together import add, here

# Of images in evaluation: larger ones are slower on a CPU, smaller ones on a GPU; fixed ones give the same bits.
BATCH_SIZE = {"cpu": 250, "cuda": 1000, "mps": 250}


@torch.no_grad()
def logits_of(
    model: nn.Module, split: Split, data: Dataset, autocast: contextlib.AbstractContextManager[object]
) -> Tensor:
    """Logits float32 [n, classes] for the clean images of a split, on their device.

    Of several processes each does some of the batches, which stay what they are for one process, and all get the
    logits of all: to add 0 changes no bit.
    """
    was_training = model.training
    model.eval()
    logits = []
    for number, images in enumerate(split.images.split(BATCH_SIZE[split.images.device.type])):
        if number % here.number != here.rank:
            logits.append(torch.zeros(len(images), len(data.classes), device=images.device))
            continue
        with autocast:
            logits.append(model(normalise(images, data.mean, data.std)).float())
    model.train(was_training)
    return add(torch.cat(logits))


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction) and plain cross-entropy of logits [n, classes], in float64, which not every device has."""
    logits, labels = logits.cpu(), labels.cpu()
    return {
        "acc": (logits.argmax(dim=1) == labels).double().mean().item(),
        "loss": F.cross_entropy(logits.double(), labels).item(),
    }
