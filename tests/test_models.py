"""The networks: sizes to the parameter, the numbers of plain modules, gradients everywhere, dropout's distribution."""

from typing import Any

import pytest
import torch
from einops import rearrange
from helpers import composed
from hydra.utils import instantiate
from torch import Tensor, nn

from vit_cnn.bench.peers import PlainCNN
from vit_cnn.console import console
from vit_cnn.errors import Refused
from vit_cnn.models import CNN, ViT
from vit_cnn.models.dropout import Dropout
from vit_cnn.models.linear import Linear
from vit_cnn.models.size import count, flops_per_image, layers_of, size_table
from vit_cnn.models.vit import Attention, Block

VIT = dict(image_size=32, num_channels=3, num_classes=10, patch_size=4, embed_dim=256, hidden_dim=512, num_heads=8,
           num_layers=6, dropout=0.2, stochastic_depth=0.0, patch_dropout=0.0, embedding_std=1.0,
           mimetic=False)  # fmt: skip


@pytest.mark.parametrize(("name", "params", "megabytes", "flops"), [
    ("vit", 3_195_146, "12.781 MB", 0.436e9),
    ("cnn", 5_852_234, "23.409 MB", 0.275e9),
])  # fmt: skip
def test_size_is_the_decks(name: str, params: int, megabytes: str, flops: float) -> None:
    model = instantiate(composed(f"model={name}", "data=cifar10").model)
    assert count(model) == params
    with console.capture() as screen:
        console.print(size_table(model, torch.zeros(2, 3, 32, 32)))
    assert f"{params:,} trainable + 0 non-trainable = {params:,} parameters, {megabytes}" in screen.get()
    assert flops_per_image(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(flops, rel=0.01)
    network = layers_of(model, torch.zeros(128, 3, 32, 32))[0]
    assert (network.in_sizes, network.out_sizes) == ([128, 3, 32, 32], [128, 10])


def test_every_layer_of_the_vit_has_its_sizes() -> None:
    vit = ViT(**VIT)
    layers = layers_of(vit, torch.zeros(1, 3, 32, 32), every_layer=True)
    assert [layer.name for layer in layers if not layer.out_sizes] == []
    assert vit.only_cls_at_the_end


def test_every_layer_of_the_cnn_can_be_listed() -> None:
    layers = layers_of(CNN(image_size=32, num_channels=3, num_classes=10), torch.zeros(1, 3, 32, 32), every_layer=True)
    kinds = [layer.kind for layer in layers]
    assert kinds.count("Conv2d") == 6
    assert kinds.count("Linear") == 3
    assert kinds.count("BatchNorm2d") == 3
    assert sum(layer.params for layer in layers[1:]) == layers[0].params


@pytest.mark.parametrize("model", [
    ViT(**{**VIT, "num_layers": 2}), CNN(image_size=32, num_channels=3, num_classes=10)
], ids=["vit", "cnn"])  # fmt: skip
def test_gradients_reach_every_parameter(model: nn.Module) -> None:
    model.train()(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


class ReferenceBlock(nn.Module):
    """The same block from PyTorch's own attention, with the weights of ours."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        ours = block.attention
        self.block = block
        self.attention = nn.MultiheadAttention(256, 8, batch_first=True)
        self.attention.in_proj_weight, self.attention.in_proj_bias = ours.to_qkv.weight, ours.to_qkv.bias
        self.attention.out_proj = ours.project

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the attention weights [b, heads, n, n]."""
        normed = self.block.norm1(tokens)
        mixed, weights = self.attention(normed, normed, normed, average_attn_weights=False)
        tokens = tokens + mixed
        return tokens + self.block.mlp(self.block.norm2(tokens)), weights


def reference_logits(vit: ViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """The whole ViT in plain modules: patches by unfold, all tokens through every block."""
    patches = rearrange(nn.functional.unfold(images, 4, stride=4), "b p n -> b n p")
    tokens = torch.cat([vit.cls_token.expand(len(images), 1, -1), vit.embed_patches(patches)], dim=1) + vit.positions
    maps = []
    for block in vit.blocks:
        tokens, weights = ReferenceBlock(block)(tokens)
        maps.append(weights)
    return vit.head(vit.norm(tokens)[:, 0]), torch.stack(maps, dim=1)


def test_vit_gives_the_logits_gradients_and_maps_of_plain_modules() -> None:
    torch.manual_seed(0)
    vit, images = ViT(**{**VIT, "num_layers": 3}).eval(), torch.randn(5, 3, 32, 32)
    logits, (wanted, maps) = vit(images), reference_logits(vit, images)
    torch.testing.assert_close(logits, wanted)
    torch.testing.assert_close(vit.attention_maps(images), maps)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(5, 3, 8, 65))
    parameters = dict(vit.named_parameters())  # the reference shares them
    ours = torch.autograd.grad(logits.square().sum(), list(parameters.values()))
    theirs = torch.autograd.grad(wanted.square().sum(), list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (4, 5, 6), (0, 6)])
def test_a_linear_layer_may_be_computed_as_a_convolution(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = Linear(6, 7), torch.randn(shape, requires_grad=True)
    plain, convolution, convolutions = nn.Linear(6, 7), nn.functional.conv2d, []
    plain.load_state_dict(layer.state_dict())

    def spy(*arguments: Tensor) -> Tensor:
        convolutions.append(arguments)
        return convolution(*arguments)

    monkeypatch.setattr(nn.functional, "conv2d", spy)
    for as_convolution in (True, False):
        monkeypatch.setattr(Linear, "as_convolution", as_convolution)
        convolutions.clear()
        out, wanted = layer(x), plain(x)
        assert len(convolutions) == (as_convolution and 0 not in shape)
        torch.testing.assert_close(out, wanted)
        weights = torch.randn_like(out)
        ours = torch.autograd.grad((out * weights).sum(), [x, layer.weight, layer.bias])
        theirs = torch.autograd.grad((wanted * weights).sum(), [x, plain.weight, plain.bias])
        torch.testing.assert_close(ours, theirs)


def test_the_last_block_may_compute_the_cls_token_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vit, images = ViT(**{**VIT, "num_layers": 2}).eval(), torch.randn(5, 3, 32, 32)
    shapes: list[torch.Size] = []
    vit.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    short = vit(images)
    monkeypatch.setattr(ViT, "only_cls_at_the_end", False)
    torch.testing.assert_close(short, vit(images))
    assert shapes == [(5, 1, 256), (5, 65, 256)]


def test_fused_attention_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vit, images = ViT(**{**VIT, "num_layers": 2}).eval(), torch.randn(5, 3, 32, 32)
    plain, fused, rates = vit(images), nn.functional.scaled_dot_product_attention, []

    def spy(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float) -> Tensor:
        rates.append(dropout_p)
        return fused(q, k, v, dropout_p=dropout_p)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(Attention, "fused_on", ("cpu",))
    torch.testing.assert_close(vit(images), plain)
    vit.train()(images)
    assert rates == [0.0, 0.2]  # the last block, CLS alone, does without


def test_the_last_block_drops_what_the_others_drop() -> None:
    """The mean over many masks tells: dropping a value also drops its bias."""
    torch.manual_seed(0)
    attention = Attention(embed_dim=16, num_heads=2, dropout=0.5)
    attention.to_qkv.bias.data.normal_()
    tokens = torch.randn(1, 5, 16).expand(20_000, -1, -1)
    with torch.no_grad():
        full, short = attention(tokens)[:, :1], attention.for_cls(tokens)
    torch.testing.assert_close(short.mean(dim=0), full.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(short.std(dim=0), full.std(dim=0), rtol=0.05, atol=0.01)


def test_cnn_gives_the_bits_of_the_layers_as_the_deck_lists_them() -> None:
    torch.manual_seed(0)
    cnn, plain = (
        CNN(image_size=32, num_channels=3, num_classes=10),
        PlainCNN(image_size=32, num_channels=3, num_classes=10),
    )
    assert [type(layer) for layer in plain.features[3:5]] == [nn.ReLU, nn.MaxPool2d]
    plain.load_state_dict(cnn.state_dict())
    images = torch.randn(4, 3, 32, 32)
    logits, wanted = cnn(images), plain(images)
    assert torch.equal(logits, wanted)
    ours = torch.autograd.grad(logits.square().sum(), list(cnn.parameters()))
    theirs = torch.autograd.grad(wanted.square().sum(), list(plain.parameters()))
    for name, a, b in zip(cnn.state_dict(), ours, theirs, strict=False):
        assert torch.equal(a, b), name


def test_patches_are_cut_row_by_row() -> None:
    vit = ViT(**{**VIT, "embed_dim": 48, "num_layers": 1, "embedding_std": 0.0}).eval()
    vit.embed_patches.weight.data, vit.embed_patches.bias.data = torch.eye(48), torch.zeros(48)
    images = torch.randn(2, 3, 32, 32)
    tokens = vit.embed(images)
    assert tokens.shape == (2, 65, 48)
    row, column = 3, 5
    patch = images[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    torch.testing.assert_close(tokens[1, 1 + 8 * row + column], patch.flatten())


def test_dropout_sits_where_the_deck_has_it() -> None:
    torch.manual_seed(0)
    vit, images = ViT(**{**VIT, "num_layers": 1}), torch.randn(2, 3, 32, 32)
    sites = [name for name, module in vit.named_modules() if isinstance(module, Dropout)]
    assert sites == ["dropout", "blocks.0.attention.dropout", "blocks.0.mlp.2", "blocks.0.mlp.4"]
    calm = vit.eval()(images)
    assert torch.equal(calm, vit(images))
    vit.train()
    for site in sites:  # each of them alone changes the logits
        for name in sites:
            vit.get_submodule(name).train(name == site)
        assert not torch.equal(calm, vit(images)), site


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_dropout_keeps_rate_and_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1999, 1001, requires_grad=True)  # not a multiple of the eight masks that share one random word
    dropout = Dropout(rate)
    y = dropout(x)
    assert (y == 0).double().mean().item() == pytest.approx(rate, abs=1e-3)
    assert y.double().mean().item() == pytest.approx(1, abs=2e-3)
    assert (y.detach() == 0).double().mean(dim=0).std() < 0.02  # no column is dropped more than others
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # the same mask and scale on the way back
    assert y.max().item() == pytest.approx(1 / (1 - rate))
    assert not torch.equal(dropout(x), y)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_of_raw_bytes_is_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte has 256 levels, and 0.001 is less than one of them: the rates and their spread are still PyTorch's."""
    x = torch.ones(4000, 500)
    for rate in (0.001, 0.3, 0.999):
        torch.manual_seed(0)
        ours = (Dropout(rate)(x) == 0).double()
        theirs = (nn.functional.dropout(x, rate) == 0).double()
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=1e-3)
        assert ours.mean(dim=0).std().item() == pytest.approx(theirs.mean(dim=0).std().item(), rel=0.2)
        pairs = (ours[:, 1:] * ours[:, :-1]).mean().item()
        assert pairs == pytest.approx(rate**2, abs=1e-3)  # neighbours are independent
    monkeypatch.setattr(Dropout, "raw_bytes", False)
    torch.manual_seed(0)
    switched_off = Dropout(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(switched_off, nn.functional.dropout(x, 0.3))


@pytest.mark.parametrize(("change", "message"), [
    ({"patch_size": 5}, "patch_size=5 does not divide image_size=32"),
    ({"num_heads": 7}, "num_heads=7 does not divide embed_dim=256"),
    ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
    ({"num_layers": 0}, "num_layers=0 must be at least 1"),
])  # fmt: skip
def test_vit_refuses_sizes_that_do_not_fit(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViT(**{**VIT, **change})


def test_cnn_refuses_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="image_size=30 must be a multiple of 8"):
        CNN(image_size=30, num_channels=3, num_classes=10)


@pytest.mark.parametrize(("size", "channels", "classes"), [(16, 1, 2), (64, 3, 100)])
@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_sizes_flow_from_data_to_model(name: str, size: int, channels: int, classes: int) -> None:
    cfg = composed(f"model={name}", "data=digits", f"data.image_size={size}", f"data.num_channels={channels}",
                   f"data.num_classes={classes}")  # fmt: skip
    assert instantiate(cfg.model).eval()(torch.zeros(2, channels, size, size)).shape == (2, classes)


class Uniform(Attention):
    """Every token gets the mean of all."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(dim=1, keepdim=True).expand_as(tokens)


class Narrow(Block):
    """The branches are added by half."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return (tokens + super().forward(tokens)) / 2


def test_a_block_of_ones_own_is_used_at_the_end_too() -> None:
    vit = ViT(**VIT).eval()
    sizes = {name: VIT[name] for name in ("embed_dim", "hidden_dim", "num_heads")}
    vit.blocks = nn.ModuleList(Narrow(**sizes, dropout=0, stochastic_depth=0).eval() for _ in vit.blocks)
    images = torch.randn(2, 3, 32, 32)
    logits = vit(images)
    vit.only_cls_at_the_end = False
    torch.testing.assert_close(vit(images), logits)


class Sharper(Attention):
    """One that changes queries alone."""

    def queries_keys_values(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = super().queries_keys_values(tokens)
        return 3 * q, k, v


def test_the_attention_of_pytorch_is_counted_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Flatten(2), layer, nn.Flatten(), nn.Linear(24, 10))
    image = torch.zeros(1, 3, 2, 4)
    assert flops_per_image(network, image) == flops_per_image(network, image, in_training=True) > 0


@pytest.mark.parametrize("kind", [Uniform, Sharper, "layer", "block"])
def test_what_is_ones_own_is_used_in_the_last_block_too(kind: Any) -> None:
    vit = ViT(**VIT).eval()
    sizes = {"embed_dim": VIT["embed_dim"], "num_heads": VIT["num_heads"]}
    for number, block in enumerate(vit.blocks):
        if kind == "block":
            layer = nn.TransformerEncoderLayer(sizes["embed_dim"], sizes["num_heads"], 8, batch_first=True)
            vit.blocks[number] = layer.eval()
        elif kind == "layer":  # one that wraps another, as those of a LoRA do
            block.attention.to_qkv = Wrapped(block.attention.to_qkv)
        else:
            block.attention = kind(**sizes, dropout=0).eval()
    images = torch.randn(2, 3, 32, 32)
    logits = vit(images)
    vit.only_cls_at_the_end = False
    torch.testing.assert_close(vit(images), logits)


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(tokens)


def test_only_what_has_attention_weights_is_drawn() -> None:
    vit, images = ViT(**VIT).eval(), torch.randn(2, 3, 32, 32)
    sizes = {"embed_dim": VIT["embed_dim"], "num_heads": VIT["num_heads"]}
    vit.blocks[1].attention = Uniform(**sizes, dropout=0)
    with pytest.raises(Refused, match="Uniform mixes tokens otherwise than Attention"):
        vit.attention_maps(images)
    vit.blocks[1] = nn.Identity()
    with pytest.raises(Refused, match="Identity is no Block of ours"):
        vit.attention_maps(images)
