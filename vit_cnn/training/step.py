"""One training step: learn from a batch. The same code whether called plainly, compiled or captured."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_cnn.config.schema import Recipe
from vit_cnn.errors import Failed
from vit_cnn.processes.together import here
from vit_cnn.training.shares import average, statistics_of
from vit_cnn.training.state import State, not_finite


def training_step(
    images: Tensor,
    targets: Tensor,
    labels: Tensor,
    *,
    state: State,
    forward: Callable[[Tensor], Tensor],
    recipe: Recipe,
    autocast: torch.autocast,
) -> Tensor:
    """Learn from a training batch: loss, accuracy and gradient norm [3].

    Several processes, each with its share of the batch, all learn, and return, the same.

    Args:
        images: float32 [b, c, h, w].
        targets: what the loss is measured against: labels int64 [b], or of mixed images shares float32 [b, classes].
        labels: int64 [b], which the loss that is returned, a plain cross-entropy, and accuracy are measured against.
        forward: ``state.model``, or what ``torch.compile`` made of it.
    """
    with autocast:
        logits = forward(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    parameters = list(state.model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    measured = measure(logits, labels)
    if here.number > 1:
        average([*gradients, measured, *statistics_of(state.model)])
    state.scaler.unscale_(state.optimizer)
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if recipe.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, recipe.grad_clip, grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return torch.cat([measured, grad_norm.float()[None]])


@torch.no_grad()
def measure(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain cross-entropy and accuracy as [2], on the device: reading them would wait for it."""
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return torch.stack([F.cross_entropy(logits.float(), labels), accuracy])


def means(window: list[Tensor], step: int) -> dict[str, float]:
    """Means over what ``training_step`` gave for the steps of ``window``, the last of which is ``step``.

    Raises:
        Failed: a loss is infinite or nan; names its step.
    """
    if not window:
        return {}
    rows = torch.stack(window).cpu().double()
    bad = (~rows[:, 0].isfinite()).nonzero()
    if len(bad):
        first = step - len(window) + 1 + int(bad[0])
        raise Failed(not_finite(f"loss is {rows[bad[0, 0], 0]:g}", first))
    return dict(zip(("train/loss", "train/acc", "grad_norm"), rows.mean(dim=0).tolist(), strict=True))
