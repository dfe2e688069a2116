"""A ViT of one's own that is a subclass of ours: the report and the probes look into it as far as its tokens allow."""

from pathlib import Path

import pytest
import torch
from helpers import TINY, call, composed

from vit_cnn import predict, probe
from vit_cnn.play import looks
from vit_cnn.report.build import build
from vit_cnn.run.reading import find_runs
from vit_cnn.run.trained import load_run
from vit_cnn.training.loop import train

OWN = """
import torch
from vit_cnn.models import ViT

class Named(ViT):
    pass

class WithRegisters(ViT):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.embed_patches = torch.nn.Sequential(self.embed_patches)

    def embed(self, images):
        tokens = super().embed(images)
        return torch.cat([tokens, torch.zeros_like(tokens[:, :2])], dim=1)
"""


@pytest.fixture
def own_vits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains both, and the CNN."""
    (tmp_path / "vits_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("VIT_CNN_TRUST", "vits_of_mine")
    own = [f"model._target_=vits_of_mine.{name}" for name in ("Named", "WithRegisters")]
    without_model = [each for each in TINY if not each.startswith("model.")]
    for folder, overrides in (
        ("named", [*TINY, own[0]]),
        ("registers", [*TINY, own[1]]),
        ("cnn", [*without_model, "model=cnn"]),
    ):
        Path("runs", folder).mkdir(parents=True)
        train(composed(*overrides, "max_steps=2"), Path("runs", folder))


@pytest.mark.usefixtures("own_vits")
def test_what_can_be_drawn_is_drawn(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    page = build(find_runs([Path("runs")]), Path("report")).read_text()
    for name in ("attention_named", "attention_distance_named", "positions_named", "positions_withregisters"):
        assert Path(f"report/{name}.png").exists(), name
    said = "attention_withregisters is left out: 19 tokens are not CLS and a square of patches"
    assert said in page
    assert "filters_withregisters is left out: " in page
    assert not Path("report/attention_withregisters.png").exists()
    assert not Path("report/filters_withregisters.png").exists()

    network = load_run("runs/registers").model
    assert set(looks.ways([network])) == {"last", "rollout", "1.1", "1.2", "2.1", "2.2"}
    where, said = looks.look(network, torch.zeros(1, 3, 32, 32), way="last", label=0)
    assert (where, said.partition(":")[0]) == (None, "no map")

    code, printed = call(probe.main, ["inside", "runs/cnn", "runs/named"], monkeypatch, capfd)
    assert code == 0, printed
    assert "CKA of first and last layer: Named" in printed  # first, since what is predicted is predicted of the ViT
    code, printed = call(probe.main, ["inside", "runs/cnn", "runs/registers"], monkeypatch, capfd)
    assert (code, "19 tokens are not CLS and a square of patches" in printed) == (2, True)

    (image,) = Path("report").glob("samples.png")
    code, printed = call(predict.main, ["runs/registers", str(image), "--attention", "a.png"], monkeypatch, capfd)
    assert (code, "19 tokens are not" in printed, Path("a.png").exists()) == (2, True, False)
