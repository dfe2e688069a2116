"""Where a network looks: a ViT's attention, or else a class-activation map of a network with convolutions."""

import torch
from torch import Tensor, nn

from vit_cnn.errors import Refused
from vit_cnn.models import CNN, ViT
from vit_cnn.models.attention_maps import cls_attention, rollout
from vit_cnn.models.hybrid import Hybrid
from vit_cnn.models.permuted import Permuted
from vit_cnn.models.vit import Attention

LAST, ROLLOUT = "last", "rollout"  # ways to look at attention; a third is a layer and a head, such as 6.3


def ways(networks: list[nn.Module]) -> dict[str, str]:
    """Ways to look at the attention of all ViTs among the networks, with their names; none without a ViT."""
    vits = [vit for network in networks if (vit := vit_of(network))]
    if not vits:
        return {}
    layers = min(len(vit.blocks) for vit in vits)
    heads = min((each.num_heads for vit in vits for each in vit.modules() if isinstance(each, Attention)), default=0)
    found = {LAST: "last layer, mean of its heads", ROLLOUT: "rollout: through all layers"}
    for layer in range(layers, 0, -1):
        found |= {f"{layer}.{head}": f"layer {layer}, head {head}" for head in range(1, heads + 1)}
    return found


def vit_of(network: nn.Module) -> ViT | None:
    """The ViT whose attention belongs to places of the image: the network itself, or that of a hybrid."""
    inner = network.network if isinstance(network, Hybrid) else network
    return inner if isinstance(inner, ViT) else None


@torch.no_grad()
def attention(network: nn.Module, images: Tensor, way: str) -> Tensor:
    """How much CLS looks at each patch of one image [1, c, h, w]: [patches high, patches wide]."""
    vit = vit_of(network)
    assert vit is not None
    maps = vit.attention_maps(network.stemmed(images) if isinstance(network, Hybrid) else images)
    if way == ROLLOUT:
        return rollout(maps)[0]
    if way == LAST:
        return cls_attention(maps)[0].mean(dim=0)
    layer, head = map(int, way.split("."))
    return cls_attention(maps[:, :layer])[0, head - 1]


def class_activation(network: nn.Module, images: Tensor, label: int) -> Tensor:
    """HiResCAM: how much each place of the last feature map of one image [1, c, h, w] speaks for ``label``, [h, w].

    That is gradient × activation, summed over channels, without what speaks against. Grad-CAM averages the gradient
    over all places first, which is the same before global pooling, but wrong for linear layers that know every place,
    as those of our CNN do.

    Source: Draelos & Carin, "Use HiResCAM instead of Grad-CAM", 2020, https://arxiv.org/abs/2011.08891.
    """
    from captum.attr import LayerGradientXActivation

    gradient_x_activation = LayerGradientXActivation(network, last_feature_map(network))
    with torch.enable_grad():
        found: Tensor = gradient_x_activation.attribute(images.clone().requires_grad_(), target=label)
    return found.detach()[0].sum(dim=0).clamp(min=0)


def last_feature_map(network: nn.Module) -> nn.Module:
    """The layer whose output is weighed: our CNN's last ReLU with places, or else the last convolution.

    Raises:
        ValueError: the network has neither.
    """
    if isinstance(network, CNN):
        return [layer for layer in network.features if isinstance(layer, nn.ReLU)][-1]
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise ValueError("it has no convolution")
    return convolutions[-1]


def look(network: nn.Module, images: Tensor, *, way: str, label: int) -> tuple[Tensor | None, str]:
    """Where the network looks in one image [1, c, h, w], [h, w] of any size, and what that is in words.

    Args:
        way: of ``ways``.
        label: what the network takes the image for.
    """
    if isinstance(network, Permuted):
        return None, "no map: it sees the pixels in another order"
    try:
        if vit := vit_of(network):
            return attention(network, images, way), f"where it looks: {ways([vit])[way]}"
        found = class_activation(network, images, label)
    except (Refused, ValueError, RuntimeError, AssertionError) as error:  # a network of others may be anything
        return None, f"no map: {error}"
    if found.ndim < 2 or found.numel() == 1:
        return None, "no map: its last convolution has a single place"
    return found, "what speaks for its answer (class activation)"
