"""The same networks by others, with dropout in the same places: what ``vit_cnn.bench`` measures ours against.

timm and vit-pytorch are the extra ``bench``.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from vit_cnn.config.schema import Recipe
from vit_cnn.data import Dataset, Split
from vit_cnn.errors import Refused
from vit_cnn.machine import precision_of
from vit_cnn.models.dropout import Dropout
from vit_cnn.training.optim import build_optimizer
from vit_cnn.training.precision import autocast_for


def timm_vit(**sizes: Any) -> nn.Module:
    """The ``VisionTransformer`` of timm, https://github.com/huggingface/pytorch-image-models."""
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        in_chans=sizes["num_channels"],
        num_classes=sizes["num_classes"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes["hidden_dim"] / sizes["embed_dim"],
        pos_drop_rate=sizes["dropout"],
        attn_drop_rate=sizes["dropout"],
        proj_drop_rate=sizes["dropout"],
    )
    for block in network.blocks:
        attention: Any = block.attn
        attention.proj_drop = nn.Identity()  # the deck's ViT has no dropout there
    return network


def vit_pytorch_vit(**sizes: Any) -> nn.Module:
    """The ``ViT`` of vit-pytorch, https://github.com/lucidrains/vit-pytorch; it normalises patches too."""
    from vit_pytorch import ViT

    network = ViT(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        num_classes=sizes["num_classes"],
        dim=sizes["embed_dim"],
        depth=sizes["num_layers"],
        heads=sizes["num_heads"],
        dim_head=sizes["embed_dim"] // sizes["num_heads"],
        mlp_dim=sizes["hidden_dim"],
        channels=sizes["num_channels"],
        dropout=sizes["dropout"],
        emb_dropout=sizes["dropout"],
    )
    for attention, _ in network.transformer.layers:
        attention.to_out[1] = nn.Identity()
    return network


class PlainBlock(nn.Module):
    """Pre-norm block of PyTorch's own parts."""

    def __init__(self, *, embed_dim: int, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, embed_dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class PlainViT(nn.Module):
    """The ViT as a tutorial writes it: ``nn.MultiheadAttention``, ``nn.Dropout``, every token through every block."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        d, self.patch_size = sizes["embed_dim"], sizes["patch_size"]
        self.embed_patches = nn.Linear(sizes["num_channels"] * self.patch_size**2, d)
        self.cls_token = nn.Parameter(torch.randn(1, 1, d))
        self.positions = nn.Parameter(torch.randn(1 + (sizes["image_size"] // self.patch_size) ** 2, d))
        self.dropout = nn.Dropout(sizes["dropout"])
        shape = {key: sizes[key] for key in ("embed_dim", "hidden_dim", "num_heads", "dropout")}
        self.blocks = nn.Sequential(*(PlainBlock(**shape) for _ in range(sizes["num_layers"])))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, sizes["num_classes"])

    def forward(self, images: Tensor) -> Tensor:
        patches = rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=self.patch_size, p2=self.patch_size)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), self.embed_patches(patches)], dim=1)
        return self.head(self.norm(self.blocks(self.dropout(tokens + self.positions)))[:, 0])


class PlainCNN(nn.Module):
    """The CNN with its layers in the order in which the deck lists them."""

    def __init__(self, *, image_size: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [(num_channels, 32, 64), (64, 128, 128), (128, 256, 256)]
        self.features = nn.Sequential(
            *(
                layer
                for c_in, c_between, c_out in widths
                for layer in (
                    nn.Conv2d(c_in, c_between, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(c_between, c_out, 3, padding=1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                    nn.BatchNorm2d(c_out),
                )
            )
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * (image_size // 8) ** 2, 1024),
            nn.ReLU(),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Linear(512, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images one by one, as PIL images through torchvision's transforms, as torchvision's ``CIFAR10`` gives them."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = rearrange(split.images, "n c h w -> n h w c").numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def data_loader(data: Dataset, recipe: Recipe) -> torch.utils.data.DataLoader[tuple[Tensor, int]]:
    """The usual way to training images: a ``DataLoader`` with a worker for each core, up to eight."""
    scale, ratio = recipe.augment.crop_scale, recipe.augment.crop_ratio
    if scale is None:
        raise Refused("recipe.augment.crop_scale=null: the benchmark's DataLoader crops, as recipe=deck does")
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(data.train.images.shape[-1], scale=tuple(scale), ratio=tuple(ratio)),
            transforms.ToTensor(),
            transforms.Normalize(data.mean.tolist(), data.std.tolist()),
        ]
    )
    return torch.utils.data.DataLoader(
        Pictures(data.train, transform),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=min(os.cpu_count() or 1, 8),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def usual_seconds(network: nn.Module, data: Dataset, cfg: DictConfig) -> float:
    """Seconds of an epoch in the usual loop, after a few batches in which its workers start."""
    device = torch.device(cfg.trainer.device)
    network = network.to(device)
    optimizer = build_optimizer(network, cfg.recipe.optimizer)
    autocast = autocast_for(device, precision_of(cfg.trainer.precision))
    loader = data_loader(data, cfg.recipe)
    usual_epoch(network, itertools.islice(loader, 3), optimizer, device, autocast)
    started = time.perf_counter()
    usual_epoch(network, loader, optimizer, device, autocast)
    return time.perf_counter() - started


def usual_epoch(
    network: nn.Module,
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    autocast: torch.autocast,
) -> None:
    """An epoch as tutorials write it; the loss that it reads waits for the device."""
    network.train()
    total = 0.0
    for batch in batches:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        with autocast:
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


def active_dropouts(network: nn.Module) -> int:
    """In how many places a network drops activations at all."""
    count = 0
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            count += module.p > 0
        elif isinstance(module, Dropout):
            count += module.rate > 0
        elif isinstance(module, nn.MultiheadAttention):
            count += module.dropout > 0
    return count
