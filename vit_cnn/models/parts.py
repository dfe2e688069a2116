"""A network from its first layer to its last: which parameters are what, and how deep they lie."""

from torch import nn

from vit_cnn.errors import Refused
from vit_cnn.models.cnn import CNN
from vit_cnn.models.vit import ViT

PAIR = 6  # layers of a CNN's pair of convolutions


def parts_of(model: nn.Module) -> list[tuple[str, ...]]:
    """What stands before the blocks, each block, what follows them: beginnings of names, as ``begins_with`` takes them.

    Blocks are a ViT's transformer blocks and a CNN's pairs of convolutions. All that is neither these nor what follows
    them belongs to what stands before: what a subclass adds, and the layers of a network around one of them.

    Raises:
        Refused: it is another network.
    """
    inner = getattr(model, "network", model)
    within = "" if inner is model else "network."
    if isinstance(inner, ViT):
        middle, last = f"{within}blocks.", [f"{within}norm.", f"{within}head."]
        blocks = [[f"{middle}{number}."] for number in range(len(inner.blocks))]
    elif isinstance(inner, CNN):
        middle, last = f"{within}features.", [f"{within}classifier."]
        layers = [f"{middle}{number}." for number in range(len(inner.features))]
        blocks = [layers[start : start + PAIR] for start in range(0, len(layers), PAIR)]
    else:
        raise Refused(
            "recipe.freeze_blocks and recipe.layer_decay know the blocks of a ViT and a CNN alone, not those of "
            f"{type(model).__name__}: give recipe.freeze_blocks=0 recipe.layer_decay=1"
        )
    of_itself = [*model.named_children(), *model.named_parameters(recurse=False)]
    within_it = [*inner.named_children(), *inner.named_parameters(recurse=False)] if within else []
    names = [f"{name}." for name, _ in of_itself] + [f"{within}{name}." for name, _ in within_it]
    first = [name for name in names if name not in (within, middle, *last)]
    return [tuple(part) for part in (first, *blocks, last)]


def begins_with(name: str, beginnings: tuple[str, ...]) -> bool:
    """Whether a parameter or a module is one of these, or lies in one."""
    return f"{name}.".startswith(beginnings)


def depths(model: nn.Module) -> dict[str, int]:
    """The part, counted from 0, of each parameter."""
    parts = parts_of(model)
    return {
        name: next(depth for depth, beginnings in enumerate(parts) if begins_with(name, beginnings))
        for name, _ in model.named_parameters()
    }


def freeze(model: nn.Module, blocks: int) -> list[nn.Module]:
    """Keep the first ``blocks`` blocks, and what stands before them, as they are.

    Returns:
        The modules that must stay in evaluation mode: a batch norm's statistics would change otherwise.

    Raises:
        Refused: there are fewer blocks.
    """
    if not blocks:
        return []
    parts = parts_of(model)
    if blocks > len(parts) - 2:
        raise Refused(f"recipe.freeze_blocks={blocks}: the {type(model).__name__} has {len(parts) - 2} blocks")
    frozen = tuple(beginning for beginnings in parts[: blocks + 1] for beginning in beginnings)
    for name, parameter in model.named_parameters():
        if begins_with(name, frozen):
            parameter.requires_grad_(False)
    return [module for name, module in model.named_modules() if begins_with(name, frozen)]


def weights_and_others(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of linear layers and convolutions; and norms, biases, positions and CLS."""
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (weights if name.endswith("weight") and parameter.ndim >= 2 else others).append(parameter)
    return weights, others


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers and convolutions between the network's first layer and its head.

    The head is the last layer; of a CNN it is all three linear layers, of which the first is so large that making it
    orthogonal would cost as much as all else in a step.
    """
    weights, _ = weights_and_others(model)
    inner = getattr(model, "network", model)
    head = {id(weight) for weight in (inner.classifier.parameters() if isinstance(inner, CNN) else weights[-1:])}
    return [weight for weight in weights[1:] if id(weight) not in head]
