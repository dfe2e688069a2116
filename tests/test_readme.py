"""The commands of README and ``conf/README.md`` work as they stand there; the long ones are shortened by overrides."""

import importlib
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, call, composed
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn import config
from vit_cnn.training.loop import train

ROOT = Path(__file__).parent.parent
README = "\n".join((ROOT / name).read_text() for name in ("conf/README.md", "README.md"))
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]

SHORT = "data.max_images=100 recipe.batch_size=16 max_steps=2"
BY_CI = ("make demo", "make test", "make compare", "make sweep", "make dashboard")  # run by .ci/run, shortened
PAGES = sorted(
    str(page.relative_to(ROOT)) for folder in ("conf", "experiments") for page in (ROOT / folder).rglob("*.md")
)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FILES = re.findall(r"```yaml\n((?:# @package _global_\n)?# (my_conf/\S+\.yaml).*?)```", README, re.DOTALL)

MY_PACKAGE = """
from torch import nn

class MyNetwork(nn.Sequential):
    def __init__(self, *, image_size: int, num_channels: int, num_classes: int, width: int):
        flat = num_channels * image_size**2
        super().__init__(nn.Flatten(), nn.Linear(flat, width), nn.ReLU(), nn.Linear(width, num_classes))
"""

NEEDS_NETWORK = ("python -m vit_cnn.train model=vit data=cifar10", "python -m vit_cnn.train model=cnn data=cifar10")


def write_files() -> None:
    """What the README shows of YAML files of one's own, where it says that they lie."""
    for text, path in FILES:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


def shortened(command: str) -> str:
    """The command as CI runs it."""
    if command in NEEDS_NETWORK:
        return f"{command} --cfg job --resolve"
    if "vit_cnn.search" in command:
        return f"{command} {SHORT} --trials 1"
    if "hydra/launcher=cores" in command:
        return f"{command} {SHORT} hydra.launcher.n_jobs=1"  # in this process
    if "vit_cnn.train" in command and "resume=" not in command and "--cfg" not in command:
        return f"{command} {SHORT}"
    return command


@pytest.mark.parametrize("block", BLOCKS, ids=[block[0] for block in BLOCKS])
def test_commands(
    block: list[str],
    image_tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, since each start of Python takes seconds; ``make demo`` in .ci/run starts the same modules."""
    image_tree.rename(tmp_path / "my_images")
    write_files()
    Path("my_package.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    for command in block:
        if command in BY_CI:
            assert re.search(rf"^{command}( |$)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
            continue
        _python, _m, module, *arguments = shlex.split(shortened(command))
        is_package = (ROOT / module.replace(".", "/")).is_dir()
        main = importlib.import_module(f"{module}.__main__" if is_package else module).main
        GlobalHydra.instance().clear()
        code, printed = call(main, arguments, monkeypatch, capfd)
        assert code == 0, f"{command}\n{printed}"


def test_files_of_ones_own_do_what_they_say(command: Callable[..., tuple[int, str]]) -> None:
    write_files()
    ours = ["hydra.searchpath=[file://my_conf]", "experiment=wide"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("config", overrides=ours)
    assert (cfg.model._target_, cfg.model.width, cfg.recipe.epochs) == ("my_package.MyNetwork", 64, 10)
    assert (cfg.recipe.name, cfg.recipe.augment.flip, cfg.recipe.optimizer.name) == ("short", False, "adamw")
    experiment = Path("my_conf/experiment/wide.yaml")
    for first_line_gone in (experiment.read_text().partition("\n")[2], "seed: 1\n"):
        experiment.write_text(first_line_gone)
        code, printed = command(*ours, "data=digits")
        assert code == 2
        assert "has to begin with the line `# @package _global_`" in printed
        assert len(printed.splitlines()) == 2  # the first says that it starts


def test_python_runs(image_tree: Path, tmp_path: Path) -> None:
    Path("runs/mine").mkdir(parents=True)
    train(composed(*TINY, "data=folder", f"data.root={image_tree}", "recipe.batch_size=18"), Path("runs/mine"))
    (image_tree / "test" / "grün" / "0.png").rename("photo.jpg")
    code = "".join(PYTHON[2:]) + "import torch; assert vit(torch.zeros(2, 3, 32, 32)).shape == (2, 10)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() in ("blue sky", "grün"), done.stderr


def test_an_augmentation_of_ones_own_stands_where_it_is_told() -> None:
    draw, do, *_ = (textwrap.indent(code, " " * 8) for code in PYTHON)
    code = (ROOT / "vit_cnn/training/augment.py").read_text()
    for place, added in {"        return draws\n": draw, '        if "mixing" in draws:\n': do}.items():
        assert code.count(place) == 1
        code = code.replace(place, added + place)
    own: dict[str, Any] = {}
    exec(code, own)
    cfg = composed(*TINY)
    recipe = OmegaConf.to_object(cfg.recipe)
    recipe.augment.grey = 0.5
    augmentation = own["Augmentation"](recipe, data=instantiate(cfg.data), seed=0)
    chosen = torch.arange(40)
    draws, noise = augmentation.draw(chosen, epoch=0, batch=0), torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    images, *_ = augmentation.apply(noise, chosen % 10, draws, 1)
    is_grey = (images[:, :1] == images).flatten(1).all(dim=1)
    assert 0 < is_grey.sum() < 40
    assert torch.equal(is_grey, draws["grey"])


def test_what_ci_leaves_out_is_listed() -> None:
    left_out = (ROOT / ".ci" / "run").read_text()
    for command in NEEDS_NETWORK:
        assert command in left_out
    for line in [line for block in BLOCKS for line in block]:
        assert re.match(r"make |python -m vit_cnn\.", line), f"{line}: neither shortened nor left out"


def test_every_file_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:conf|vit_cnn|experiments)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        name, _, heading = link.partition("#")
        if not name.startswith("http"):
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> list[str]:
    """The names by which a link finds a page's headings: in small letters, without punctuation, joined by hyphens."""
    lines = [line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if re.match(r"#+ ", line)]
    return [re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in lines]
