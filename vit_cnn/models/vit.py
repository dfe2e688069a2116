"""The Vision Transformer: an image is a sequence of patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929, in the small
pre-norm form for 32×32 images.

Axes: ``b`` batch, ``c`` channels, ``h w`` patch grid, ``n`` tokens (CLS first, then h·w patches), ``d`` width
of a token, ``p1 p2`` pixels in a patch, ``heads`` attention heads, ``dh`` width of a head.
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from vit_cnn.errors import Refused
from vit_cnn.models.dropout import Dropout, StochasticDepth
from vit_cnn.models.linear import Linear
from vit_cnn.models.mimetic import mimetic_, sines

# cuDNN's fused attention, which PyTorch prefers on some GPUs, rounds the dropout rate to sixteenths (0.2 becomes 3/16)
# and has failed under capture at lengths such as 65. Switched off here, before anything can compile it in.
torch.backends.cuda.enable_cudnn_sdp(False)

MOST_LAYERS = 1000  # a config may come from anybody, and a billion of them would be built for ever


class Attention(nn.Module):
    """Multi-head attention: every token mixes the values of all tokens.

    Attributes:
        fused_on: devices on which PyTorch's fused attention does the same in one kernel; on a CPU it is slower.

    Shape: tokens [b, n, d] → mixed tokens [b, n, d].
    """

    fused_on = ("cuda",)

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = Linear(embed_dim, 3 * embed_dim)
        self.dropout = Dropout(dropout)
        self.project = Linear(embed_dim, embed_dim)  # without dropout after it, as in the deck
        plain = (Attention.forward, Attention.queries_keys_values)
        self.is_plain = (type(self).forward, type(self).queries_keys_values) == plain  # a subclass may mix otherwise

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(tokens)
        if tokens.device.type in self.fused_on:
            rate = self.dropout.rate if self.dropout.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        else:
            mixed = self.dropout(attention_weights(q, k)) @ v
        return self.project(rearrange(mixed, "b heads n dh -> b n (heads dh)"))

    def weights(self, tokens: Tensor) -> Tensor:
        """What ``forward`` mixes by: [b, heads, n, n]; a row holds what one token looks at and sums to 1.

        Raises:
            Refused: a subclass has another ``forward``, and no ``weights`` to go with it.
        """
        if type(self).forward is not Attention.forward and type(self).weights is Attention.weights:
            raise Refused(f"{type(self).__name__} mixes tokens otherwise than Attention, and has no weights() to draw")
        q, k, _ = self.queries_keys_values(tokens)
        return attention_weights(q, k)

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each [b, heads, n, dh]."""
        q, k, v = rearrange(self.to_qkv(tokens), "b n (qkv heads dh) -> qkv b heads n dh", qkv=3, heads=self.num_heads)
        return q, k, v

    def for_cls(self, tokens: Tensor) -> Tensor:
        """The first row of ``forward`` alone: tokens [b, n, d] → the mixed CLS token [b, 1, d].

        With a single query, matrix products can change places: instead of a key for each token, the query goes through
        the weights of the keys, (Wx)·q = x·(Wᵀq); instead of a value for each, their weighted mean goes through those
        of the values. 3 % of the operations (65 tokens) give the same numbers up to rounding.
        """
        if not self.is_plain or type(self.to_qkv) is not Linear:  # another layer may have taken its place
            return self(tokens)[:, :1]
        w_q, w_k, w_v = rearrange(self.to_qkv.weight, "(qkv heads dh) d -> qkv heads dh d", qkv=3, heads=self.num_heads)
        b_q, b_k, b_v = rearrange(self.to_qkv.bias, "(qkv heads dh) -> qkv heads dh", qkv=3, heads=self.num_heads)
        q = (einsum(tokens[:, 0], w_q, "b d, heads dh d -> b heads dh") + b_q) * w_q.shape[1] ** -0.5
        scores = einsum(q, w_k, "b heads dh, heads dh d -> b heads d") @ tokens.transpose(1, 2)
        weights = self.dropout((scores + (q * b_k).sum(dim=-1, keepdim=True)).softmax(dim=-1))
        mixed = einsum(weights @ tokens, w_v, "b heads d, heads dh d -> b heads dh")
        mixed = mixed + weights.sum(dim=-1, keepdim=True) * b_v
        return self.project(rearrange(mixed, "b heads dh -> b 1 (heads dh)"))


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ / √dh) of queries and keys [b, heads, n, dh]: [b, heads, n, n]."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)


class Block(nn.Module):
    """Pre-norm transformer block: tokens talk to each other (attention), then each thinks for itself (MLP).

    Shape: [b, n, d] → [b, n, d].
    """

    def __init__(
        self, *, embed_dim: int, hidden_dim: int, num_heads: int, dropout: float, stochastic_depth: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = Attention(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            Linear(embed_dim, hidden_dim),
            nn.GELU(),
            Dropout(dropout),
            Linear(hidden_dim, embed_dim),
            Dropout(dropout),
        )
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.is_plain = type(self).forward is Block.forward  # a subclass may do otherwise

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.stochastic_depth(self.attention(self.norm1(tokens)))
        return tokens + self.stochastic_depth(self.mlp(self.norm2(tokens)))

    def for_cls(self, tokens: Tensor) -> Tensor:
        """The CLS token of ``forward`` alone: [b, n, d] → [b, 1, d]."""
        if not self.is_plain:
            return self(tokens)[:, :1]
        cls = tokens[:, :1] + self.stochastic_depth(self.attention.for_cls(self.norm1(tokens)))
        return cls + self.stochastic_depth(self.mlp(self.norm2(cls)))


class ViT(nn.Module):
    """Vision Transformer that classifies small square images.

    Args:
        image_size: side of the images in pixels.
        num_channels: channels of the images.
        num_classes: number of logits.
        patch_size: side of a patch in pixels; divides ``image_size``.
        embed_dim: width ``d`` of a token; a multiple of ``num_heads``.
        hidden_dim: width of the MLP's hidden layer.
        num_heads: attention heads in each block.
        num_layers: transformer blocks, at most ``MOST_LAYERS``.
        dropout: rate after the embeddings, on the attention weights and after both MLP layers.
        stochastic_depth: rate at which an image skips a branch of the last block; it rises from 0 in the first.
        patch_dropout: share of the patches that each training image leaves out, always the same number of them (Liu et
            al., 2022, https://arxiv.org/abs/2208.07220).
        embedding_std: standard deviation of the CLS token and the positions at the start.
        mimetic: whether attention starts as it looks in trained networks, and the positions of the patches start as
            sines; see ``vit_cnn/models/mimetic.py``.

    Attributes:
        only_cls_at_the_end: the switch for computing nothing but the CLS token in the last block, since nothing else
            reaches the head; a sixth fewer operations, the same logits up to rounding.

    Shape: images [b, num_channels, image_size, image_size] → logits [b, num_classes]. Images of another size are taken
        too, if ``patch_size`` divides their sides; the positions are then interpolated.

    Raises:
        ValueError: a size is not positive or does not divide the one it has to divide.
    """

    only_cls_at_the_end = True

    def __init__(
        self,
        *,
        image_size: int,
        num_channels: int,
        num_classes: int,
        patch_size: int,
        embed_dim: int,
        hidden_dim: int,
        num_heads: int,
        num_layers: int,
        dropout: float,
        stochastic_depth: float,
        patch_dropout: float,
        embedding_std: float,
        mimetic: bool,
    ) -> None:
        super().__init__()
        sizes = dict(patch_size=patch_size, embed_dim=embed_dim, hidden_dim=hidden_dim, num_heads=num_heads)
        for name, size in {**sizes, "num_layers": num_layers}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers={num_layers} must be at most {MOST_LAYERS}")
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        if mimetic and embed_dim % 4:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of 4 with mimetic=true")
        if not embedding_std >= 0:
            raise ValueError(f"embedding_std={embedding_std} must be at least 0")
        for name, rate in dict(stochastic_depth=stochastic_depth, patch_dropout=patch_dropout).items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name}={rate} must be at least 0 and below 1")

        self.patch_size = patch_size
        num_patches = (image_size // patch_size) ** 2
        self.patches_kept = max(1, round((1 - patch_dropout) * num_patches))
        self.embed_patches = Linear(num_channels * patch_size**2, embed_dim)
        self.cls_token = nn.Parameter(embedding_std * torch.randn(embed_dim))
        self.positions = nn.Parameter(embedding_std * torch.randn(1 + num_patches, embed_dim))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                hidden_dim=hidden_dim,
                num_heads=num_heads,
                dropout=dropout,
                stochastic_depth=stochastic_depth * number / max(1, num_layers - 1),
            )
            for number in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = Linear(embed_dim, num_classes)
        if mimetic:
            with torch.no_grad():
                self.positions[1:] = sines(image_size // patch_size, embed_dim)
            for attention in (module for module in self.modules() if isinstance(module, Attention)):
                mimetic_(attention.to_qkv, attention.project, num_heads=num_heads)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images)
        *others, last = self.blocks
        for block in others:
            tokens = block(tokens)
        tokens = last.for_cls(tokens) if self.only_cls_at_the_end and isinstance(last, Block) else last(tokens)
        return self.head(self.norm(tokens[:, 0]))

    def embed(self, images: Tensor) -> Tensor:
        """Cut images [b, c, h·p1, w·p2] into patches and embed them: tokens [b, n, d], CLS first."""
        patches = rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=self.patch_size, p2=self.patch_size)
        cls = repeat(self.cls_token, "d -> b 1 d", b=images.shape[0])
        h, w = (side // self.patch_size for side in images.shape[-2:])
        tokens = torch.cat([cls, self.embed_patches(patches)], dim=1) + resized_positions(self.positions, h, w)
        if self.training and self.patches_kept < patches.shape[1]:
            tokens = some_patches(tokens, self.patches_kept)
        return self.dropout(tokens)

    def attention_maps(self, images: Tensor) -> Tensor:
        """Attention weights of every block for images [b, c, h·p1, w·p2]: [b, num_layers, heads, n, n]."""
        tokens, maps = self.embed(images), []
        for block in self.blocks:
            if not isinstance(block, Block):
                raise Refused(f"{type(block).__name__} is no Block of ours: it has no attention weights to draw")
            maps.append(block.attention.weights(block.norm1(tokens)))
            tokens = block(tokens)
        return torch.stack(maps, dim=1)


def some_patches(tokens: Tensor, number: int) -> Tensor:
    """CLS and ``number`` of the patches of each image, drawn at random: [b, 1 + n, d] → [b, 1 + number, d]."""
    b, n, d = tokens[:, 1:].shape
    chosen = torch.rand(b, n, device=tokens.device).argsort(dim=1)[:, :number]
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, repeat(chosen, "b n -> b n d", d=d))], dim=1)


def resized_positions(positions: Tensor, h: int, w: int) -> Tensor:
    """Positions [1 + n, d] of CLS and a square of patches → of a grid of ``h`` × ``w`` patches [1 + h·w, d].

    Bicubic, smoothed where the grid gets smaller; the same tensor where the grid stays as it is.
    """
    side = round((len(positions) - 1) ** 0.5)
    if (h, w) == (side, side):
        return positions
    grid = rearrange(positions[1:], "(h w) d -> 1 d h w", h=side)
    grid = F.interpolate(grid, size=(h, w), mode="bicubic", antialias=True)
    return torch.cat([positions[:1], rearrange(grid, "1 d h w -> (h w) d")])
