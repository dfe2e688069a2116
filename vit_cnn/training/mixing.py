"""CutMix and MixUp: two images in one, and labels that say how much of which.

Each image is mixed with the one before it in the batch, by numbers of its own.
"""

import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.config.schema import Mixing, Recipe

QUANTILES = 4096  # of a Beta distribution, between which is interpolated


def is_mixing(step: int, *, recipe: Recipe, steps_per_epoch: int) -> bool:
    """Whether images are mixed at all in the training step that follows ``step`` steps."""
    return recipe.mixing.probability > 0 and step / steps_per_epoch < recipe.mixing.end * recipe.epochs


def mix(
    images: Tensor, labels: Tensor, *, share: Tensor, num_classes: int, batches: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix images [b, c, h, w] and their labels [b].

    Args:
        share: of the other image in each pixel, [b, 1, h, w].
        batches: how many batches the images are, of equal size, one after another.

    Returns:
        Images, targets [b, classes] that add up to 1, and the label of the larger part of each image [b].
    """
    others, total = before(labels, batches), share.mean(dim=(1, 2, 3))
    targets = torch.lerp(one_hot(labels, num_classes), one_hot(others, num_classes), total[:, None])
    return torch.lerp(images, before(images, batches), share), targets, torch.where(total > 0.5, others, labels)


def before(each: Tensor, batches: int) -> Tensor:
    """For each image or label of [b, …] the one before it in its batch; for the first of a batch its last."""
    by_batch = rearrange(each, "(k b) ... -> k b ...", k=batches)
    return rearrange(by_batch.roll(1, dims=1), "k b ... -> (k b) ...")


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()


def shares(mixed: Tensor, drawn: Tensor, quantiles: Tensor, mixing: Mixing, *, h: int, w: int) -> Tensor:
    """How much of the other image there is in each pixel, [b, 1, h, w]; 0 in an image that is not mixed.

    CutMix (Yun et al., 2019, https://arxiv.org/abs/1905.04899) takes a rectangle from it, which may hang over the
    border; MixUp (Zhang et al., 2018, https://arxiv.org/abs/1710.09412) the same share everywhere.

    Args:
        mixed: which images, bool [b].
        drawn: numbers [b, 4] in [0, 1): kind, share, column, row.
        quantiles: of the shares that CutMix and MixUp leave to the image itself, [2, QUANTILES + 1].
    """
    kind, level, x, y = drawn.unbind(dim=1)
    by_cutmix = kind < mixing.switch_probability
    kept = torch.where(by_cutmix, quantile(quantiles[0], level), quantile(quantiles[1], level))
    half = (1 - kept).sqrt() / 2
    rows, columns = around(y, half, h), around(x, half, w)
    box = rows[:, :, None] & columns[:, None, :]
    share = torch.where(by_cutmix[:, None, None], box, (1 - kept)[:, None, None])
    return (share * mixed[:, None, None])[:, None]


def around(centre: Tensor, half: Tensor, size: int) -> Tensor:
    """Which of ``size`` pixels in a line, bool [b, size], lie around a pixel chosen by ``centre`` [b] in [0, 1).

    Args:
        half: how far they reach either way [b], as a share of the line.
    """
    middle, reach = (centre * size).floor()[:, None], (half * size).floor()[:, None]
    pixels = torch.arange(size, device=centre.device)
    return (pixels >= middle - reach) & (pixels < middle + reach)


def quantile(table: Tensor, uniform: Tensor) -> Tensor:
    """Numbers [b] in [0, 1) → numbers [b] distributed as the quantiles in ``table`` say."""
    position = uniform * QUANTILES
    below = position.long()
    return torch.lerp(table[below], table[below + 1], position - below)


def beta_quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha), float32 [QUANTILES + 1], evenly from 0 to 1.

    PyTorch's own draws from a Beta distribution take no generator, so that they could not be repeated.
    """
    from scipy.special import betaincinv

    evenly = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, evenly.numpy())).float()
