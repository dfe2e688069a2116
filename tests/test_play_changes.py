"""What is done to an image on the page, and where a network looks."""

import dataclasses

import pytest
import torch
from helpers import TINY, composed
from torch import nn

from vit_cnn.config.network import build_network
from vit_cnn.errors import Refused
from vit_cnn.models.attention_maps import cls_attention, rollout
from vit_cnn.play.changes import FAMILY_OF, Changes, changed, from_link, to_link
from vit_cnn.play.looks import LAST, ROLLOUT, attention, class_activation, look, ways
from vit_cnn.play.replies import changes_of

EACH = {
    "right": -3, "down": 2, "shuffle": 8, "hide": 9, "corruption": "zoom_blur", "grey": True, "noise": 20,
}  # fmt: skip


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


MEAN = torch.tensor([10.0, 20.0, 30.0])[:, None, None]


def test_an_image_stays_as_it_is_until_something_is_changed(photo: torch.Tensor) -> None:
    assert changed(photo, Changes(), mean=MEAN).equal(photo)
    for name, value in EACH.items():
        after = changed(photo, Changes(**{name: value}), mean=MEAN)  # type: ignore[arg-type]
        assert (after.dtype, after.shape) == (torch.uint8, photo.shape)
        assert not after.equal(photo), name
        assert after.equal(changed(photo, Changes(**{name: value}), mean=MEAN)), name  # type: ignore[arg-type]


def test_changes_do_what_they_say(photo: torch.Tensor) -> None:
    moved = changed(photo, Changes(right=4, down=-2), mean=MEAN)
    assert moved[..., :-2, 4:].equal(photo[..., 2:, :-4])
    hidden = changed(photo, Changes(hide=8, hide_right=100, hide_down=0), mean=MEAN)
    assert (hidden[..., :8, -8:].float() == MEAN).all()
    assert hidden[..., 8:, :].equal(photo[..., 8:, :])
    grey = changed(photo, Changes(grey=True), mean=MEAN)
    assert grey[:, 0].equal(grey[:, 1]) and grey[:, 0].equal(grey[:, 2])
    shuffles = [changed(photo, Changes(shuffle=4, draw=draw), mean=MEAN) for draw in (0, 1)]
    assert not shuffles[0].equal(shuffles[1])
    assert shuffles[0].flatten().sort().values.equal(photo.flatten().sort().values)
    alone = photo[:, :1]
    assert changed(alone, Changes(grey=True, corruption="contrast"), mean=MEAN[:1]).shape == alone.shape


def test_a_link_holds_every_change() -> None:
    everything = Changes(**EACH, hide_right=0, hide_down=77, severity=5, draw=12)  # type: ignore[arg-type]
    link = to_link(everything)
    assert len(link) == 11
    assert from_link(link, 32) == everything
    assert to_link(Changes()) == {}
    for corruption in FAMILY_OF:
        assert from_link({"corruption": corruption, "utm": "x"}, 32) == Changes(corruption=corruption)
    for name, value, said in (
        ("right", "9", "a whole number from -8 to 8"),
        ("right", "1e3", "a whole number"),
        ("noise", "9" * 5000, "from 0 to 50"),
        ("shuffle", "3", "0, 2, 4, 8, 16"),
        ("corruption", "rain", "gaussian_noise"),
        ("grey", "", "from 0 to 1"),
    ):
        with pytest.raises(Refused, match=rf"the link's {name}=.*must be .*{said}"):
            from_link({name: value}, 32)


def test_a_number_that_is_half_typed() -> None:
    plain = dataclasses.astuple(Changes())
    assert changes_of([None, 1.6, *plain[2:]]) == Changes(down=2)
    assert changes_of(plain) == Changes()


# --- where a network looks


def test_attention_of_layers_and_heads() -> None:
    vit = build_network(composed(*TINY).model).eval()
    images = torch.randn(1, 3, 32, 32)
    assert list(ways([vit, nn.Identity()])) == [LAST, ROLLOUT, "2.1", "2.2", "1.1", "1.2"]
    maps = vit.attention_maps(images)
    assert attention(vit, images, LAST).equal(cls_attention(maps)[0].mean(dim=0))
    assert attention(vit, images, ROLLOUT).equal(rollout(maps)[0])
    assert attention(vit, images, "1.2").equal(cls_attention(maps[:, :1])[0, 1])
    hybrid = build_network(composed("data=digits", "model=hybrid").model).eval()
    places, caption = look(hybrid, images, way="2.1", label=0)
    assert places is not None and places.shape == (8, 8)
    assert caption == "where it looks: layer 2, head 1"


def test_class_activation_is_where_the_answer_comes_from() -> None:
    linear = nn.Linear(64, 2)
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.weight[1, 8 * 2 + 5] = 3.0  # class 1 is row 2, column 5
        linear.weight[1, 0] = -1.0  # and speaks against row 0, column 0
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), linear).requires_grad_(False)
    network[0].weight.fill_(1)
    network[0].bias.fill_(0)
    found = class_activation(network, torch.ones(1, 1, 8, 8), 1)
    assert found.nonzero().tolist() == [[2, 5]]
    cnn = build_network(composed("model=cnn", "data=digits").model).eval().requires_grad_(False)
    places, caption = look(cnn, torch.randn(1, 3, 32, 32), way=LAST, label=3)
    assert places is not None and places.shape == (4, 4)
    assert caption == "what speaks for its answer (class activation)"
    assert not any(parameter.requires_grad for parameter in cnn.parameters())


def test_networks_without_a_map() -> None:
    images = torch.randn(1, 3, 32, 32)
    permuted = build_network(composed("model=permuted_cnn", "data=digits").model).eval()
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    to_one_place = nn.Sequential(nn.Conv2d(3, 10, 32), nn.Flatten())
    for network, said in ((permuted, "another order"), (plain, "no convolution"), (to_one_place, "a single place")):
        places, caption = look(network, images, way=LAST, label=0)
        assert places is None
        assert said in caption
