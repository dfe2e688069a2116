"""All that changes while a run trains: how it begins, and what ``last.pt`` holds of it."""

import contextlib
import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_cnn.config.network import build_network
from vit_cnn.data import Dataset
from vit_cnn.errors import Failed, Refused
from vit_cnn.machine import precision_of
from vit_cnn.models.parts import freeze
from vit_cnn.processes.together import here, is_first
from vit_cnn.run import checkpoint
from vit_cnn.training.beginning import begin_from
from vit_cnn.training.ema import WeightAverage
from vit_cnn.training.optim import build_optimizer, layer_scales
from vit_cnn.training.shares import begin_alike, with_global_batch_norm

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: training steps done.
        seconds: wall-clock seconds so far; the pause between a stop and its resume does not count.
        seconds_train: of these, seconds in training steps.
        best_step, best_acc, best_loss: the best epoch so far, by validation accuracy, and by loss where that is equal.
        logged_step, logged_seconds: ``step`` and ``seconds_train`` when training metrics were last logged.
        continued: each time that the run was resumed: from which step, with what changes, under which schedule before.
        init: where the first weights came from; ``None`` for random ones.
    """

    step: int = 0
    seconds: float = 0.0
    seconds_train: float = 0.0
    best_step: int = 0
    best_acc: float = -1.0
    best_loss: float = math.inf
    logged_step: int = 0
    logged_seconds: float = 0.0
    continued: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    init: dict[str, Any] | None = None

    def is_best(self, val: dict[str, float]) -> bool:
        """Whether validation accuracy ``acc`` and ``loss`` are better than ever before."""
        return (val["acc"], -val["loss"]) > (self.best_acc, -self.best_loss)

    def note_best(self, val: dict[str, float]) -> None:
        self.best_step, self.best_acc, self.best_loss = self.step, val["acc"], val["loss"]


@dataclasses.dataclass
class State:
    """What training changes; beside it, a checkpoint holds the state of PyTorch's random number generators.

    Attributes:
        model, optimizer, scaler: the network and what changes its weights.
        window: loss, accuracy and gradient norm [3] of each step since the last line of metrics, on the device.
        progress: how far the run has come.
        best: the weights of the best epoch so far, of which ``progress`` speaks; empty before the first.
        average: of the weights, where the recipe asks for one; it is evaluated instead of them.
        frozen: the modules that are not trained.
        best_is_written: whether ``best.pt`` holds ``best``.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    window: list[Tensor]
    progress: Progress
    best: dict[str, Tensor]
    average: WeightAverage | None
    frozen: list[nn.Module]
    best_is_written: bool = False

    def begin_training(self) -> None:
        """Training mode, but not for what is frozen: its batch norms keep their statistics, and it drops nothing."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def weights_to_evaluate(self) -> contextlib.AbstractContextManager[None]:
        """Within it, ``model`` has the weights that the run is judged by."""
        return self.average.in_use() if self.average else contextlib.nullcontext()

    def note_best(self, val: dict[str, float]) -> None:
        """Keep the weights of this epoch as the best ones; the next ``save`` writes them."""
        self.progress.note_best(val)
        self.best_is_written = False
        self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def save(self, run_dir: Path, data: Dataset, **about: Any) -> None:
        """Write ``last.pt``, the state and ``about`` the run some plain values, and ``best.pt`` if it is due.

        All processes of a run have the same state, of which the first one writes its own.

        ``last.pt`` holds the best weights too, so that what it says of the best epoch and those weights are of one
        piece; ``best.pt`` is a copy for those who use the network, with all that it takes to use it.

        Raises:
            Failed: the weights are not finite; what was saved before stays.
        """
        if not is_first():
            return
        norm = torch.nn.utils.get_total_norm(self.model.parameters()).item()
        if not math.isfinite(norm):
            raise Failed(not_finite(f"norm of the weights is {norm:g}", self.progress.step))
        held = {
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.state_dict(),
            "rng": rng_state(device_of(self.model)),
            "window": torch.stack(self.window).cpu() if self.window else torch.empty(0),
            "progress": dataclasses.asdict(self.progress),
            "fingerprint": data.fingerprint,
        }
        checkpoint.save_last(run_dir, held | about)
        self.write_best(run_dir, data)

    def write_best(self, run_dir: Path, data: Dataset) -> None:
        """Write ``best.pt`` if it is due."""
        if self.best and not self.best_is_written:
            write_best(run_dir, self.best, data, step=self.progress.best_step)
            self.best_is_written = True


def write_best(run_dir: Path, weights: dict[str, Tensor], data: Dataset, *, step: int) -> None:
    """Write ``best.pt``: the weights after ``step``, and what it takes to use them."""
    use = {"mean": data.mean, "std": data.std, "classes": data.classes, "fingerprint": data.fingerprint}
    checkpoint.save(run_dir / "best.pt", {"model": weights, "step": step, **use})


def mend_best(run_dir: Path, saved: dict[str, Any], data: Dataset) -> None:
    """Write ``best.pt`` of a finished run again from ``saved``, its ``last.pt``, if it is lost or damaged."""
    if not is_first() or saved["fingerprint"] != data.fingerprint:
        return
    try:
        checkpoint.load_best(run_dir)
    except Refused:
        write_best(run_dir, saved["best"], data, step=saved["progress"]["best_step"])
        log.warning("%s was lost or damaged: written again from last.pt.", run_dir / "best.pt")


def build_state(
    cfg: DictConfig, saved: dict[str, Any] | None, last: Path, *, classes: list[str] | None = None
) -> State:
    """A run's first state, from its seed and ``init``; or, with what was ``saved`` in ``last``, the one to go on from.

    Args:
        classes: names of the classes, by label; a head is only taken from a network that has the same.

    Raises:
        Refused: the checkpoint, or what ``init`` names, does not fit the network, or holds too little.
    """
    if saved and "best" not in saved:
        raise Refused(f"{last} is of an earlier version of vit_cnn, which kept less in it: go on with that version")
    device = torch.device(cfg.trainer.device)
    torch.manual_seed(cfg.seed)
    layout = torch.channels_last if cfg.trainer.channels_last else torch.contiguous_format
    model = build_network(cfg.model, pretrained=saved is None and not cfg.init).to(device).to(memory_format=layout)
    progress = progress_in(saved)
    if cfg.init and not saved:
        progress.init = begin_from(Path(cfg.init), model, cfg, classes)
    if cfg.trainer.sync_batchnorm and here.number > 1:
        model = with_global_batch_norm(model)
    begin_alike(model)
    frozen, scales = freeze(model, cfg.recipe.freeze_blocks), layer_scales(model, cfg.recipe.layer_decay)
    state = State(
        model=model,
        optimizer=build_optimizer(model, cfg.recipe.optimizer, saved and saved["optimizer"], scales=scales),
        scaler=torch.amp.GradScaler(device.type, enabled=precision_of(cfg.trainer.precision) == "fp16"),
        window=[],
        progress=progress,
        best={},
        average=None if cfg.recipe.ema_decay is None else WeightAverage(model, decay=cfg.recipe.ema_decay),
        frozen=frozen,
    )
    if saved:
        checkpoint.load_weights(model, saved["model"], last)
        if saved["scaler"]:  # empty where the part before did without
            state.scaler.load_state_dict(saved["scaler"])
        state.window = list(saved["window"].to(device))
        state.best = {name: tensor.to(device) for name, tensor in saved["best"].items()}
        if state.average:
            state.average.load_state_dict(saved["average"])
        set_rng_state(saved["rng"], device)
    return state


def progress_in(saved: dict[str, Any] | None) -> Progress:
    """How far a run has come.

    Raises:
        Refused: a later version of the package wrote more into the checkpoint than is understood here.
    """
    if not saved:
        return Progress()
    if unknown := saved["progress"].keys() - {field.name for field in dataclasses.fields(Progress)}:
        what = ", ".join(sorted(map(str, unknown)))
        raise Refused(
            f"the checkpoint is of another version of vit_cnn, which keeps {what} in it: go on with that version"
        )
    return Progress(**saved["progress"])


def not_finite(what: str, step: int) -> str:
    """The message of a run that blew up."""
    return (
        f"the {what} at step {step}; last.pt holds the last good weights. "
        "Try a lower recipe.optimizer.lr, a longer warm-up or gradients clipped, to recipe.grad_clip=1 or less"
    )


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of PyTorch's global random number generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on drawing where ``rng_state`` was taken; a generator of another kind of device keeps its seed."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
