"""The weights of one network for another of the same kind: what has another size is resized, or begins anew."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_cnn.models.cnn import CNN
from vit_cnn.models.vit import ViT, resized_positions

Weights = dict[str, Tensor]


def adopted(weights: Weights, model: nn.Module, *, new_head: bool) -> tuple[Weights, list[str]]:
    """``weights`` as ``model`` can take them; unchanged, where its sizes are theirs.

    Args:
        new_head: whether the head begins anew although its size is the same.

    Returns:
        The weights, and a line in words for each change. What still does not fit is for the caller to refuse.
    """
    here = model.state_dict()
    found, changes = dict(weights), []
    if isinstance(model, ViT):
        changes += fit_patches(found, model)
        changes += fit_positions(found, here)
    if isinstance(model, CNN) and other_inputs(found.get("classifier.1.weight"), here["classifier.1.weight"]):
        found |= {name: here[name] for name in here if name.startswith("classifier.")}
        changes.append("images of another size: the linear layers begin anew, the convolutions are kept")
    head = f"{list(here)[-1].rpartition('.')[0]}."  # the last layer
    names = [name for name in here if name.startswith(head) and name in weights]
    if new_head or any(other_outputs(found[name], here[name]) for name in names):
        changes.append(f"other classes: {head[:-1]} begins anew with {len(here[names[-1]])} outputs" if names else "")
        found |= {name: here[name] for name in names}
    return found, [change for change in changes if change]


def other_inputs(there: Tensor | None, here: Tensor) -> bool:
    return there is not None and there.ndim == 2 and there.shape[0] == here.shape[0] and there.shape != here.shape


def other_outputs(there: Tensor, here: Tensor) -> bool:
    return there.ndim == here.ndim and there.shape[1:] == here.shape[1:] and there.shape != here.shape


def fit_positions(found: Weights, here: Weights) -> list[str]:
    """Interpolate the positions between the patches; CLS keeps its own (Dosovitskiy et al., 2021, section 3.2)."""
    positions = found.get("positions")
    before, after = (
        len(positions) - 1 if positions is not None and positions.ndim == 2 else 0,
        len(here["positions"]) - 1,
    )
    if positions is None or before == after or not before or math.isqrt(before) ** 2 != before:
        return []
    side = math.isqrt(after)
    found["positions"] = resized_positions(positions, side, side)
    return [f"{before} patches there, {after} here: positions are interpolated"]


def fit_patches(found: Weights, model: ViT) -> list[str]:
    """Resize the weights of the patch embedding, each a patch of pixels, to another size of patch."""
    weight, here = found.get("embed_patches.weight"), getattr(model.embed_patches, "weight", None)
    if weight is None or here is None or not weight.ndim == here.ndim == 2 or weight.shape == here.shape:
        return []
    channels = here.shape[1] // model.patch_size**2
    before = math.isqrt(weight.shape[1] // channels)
    if not before or channels * before**2 != weight.shape[1]:
        return []
    found["embed_patches.weight"] = resized_patches(weight, channels, before, model.patch_size)
    return [f"patches of {before} pixels there, {model.patch_size} here: their embedding is resized"]


def resized_patches(weight: Tensor, channels: int, before: int, after: int) -> Tensor:
    """Weights [d, channels · before²] of a patch embedding → [d, channels · after²] that say much the same.

    Resizing a patch is a matrix B. The new weights are the pseudo-inverse of Bᵀ times the old ones, so that the
    embedding of an enlarged patch is that of the patch: (Bx)·w' = x·w (Beyer et al., "FlexiViT", CVPR 2023, section
    3.4, https://arxiv.org/abs/2212.08013).
    """
    pixels = torch.eye(before**2, dtype=torch.float64).reshape(before**2, 1, before, before)
    resized = F.interpolate(pixels, size=(after, after), mode="bilinear", antialias=True)
    matrix = torch.linalg.pinv(rearrange(resized, "old 1 p1 p2 -> old (p1 p2)"))  # of Bᵀ: [new, old]
    patches = rearrange(weight.double(), "d (c old) -> d c old", c=channels)
    return rearrange(patches @ matrix.T, "d c new -> d (c new)").to(weight)
