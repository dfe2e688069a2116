"""THE training loop: one function, from config to ``result.json``, to be read from top to bottom.

What differs from the textbook: the images live on the device as uint8 and are augmented there, whole batches at a time;
order and augmentation are functions of seed, epoch and batch, and a checkpoint holds the state of the generator that
dropout draws from, so that a run that was stopped goes on to the same bits; and nothing in a step waits for the device,
so that it can be captured as a CUDA graph.

Free of Hydra's globals: tests and notebooks call ``train(cfg, run_dir)`` as the command line does.
"""

import functools
import logging
import math
import time
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_cnn.config.paste import resume_command
from vit_cnn.config.schema import Recipe
from vit_cnn.config.target import network_name
from vit_cnn.config.trust import trust_of
from vit_cnn.console import console, share_console_with_logging
from vit_cnn.data import Dataset
from vit_cnn.data.batches import normalise
from vit_cnn.errors import Failed, Stopped, StoppedBeforeTest
from vit_cnn.machine import (
    device_name,
    forget_peak_memory,
    has_quick_bf16,
    keep_freed_memory,
    peak_memory_bytes,
    precision_of,
)
from vit_cnn.models.size import flops_per_image, size_table
from vit_cnn.processes.together import here, in_turn, own_device, refuse_unlike
from vit_cnn.run import checkpoint
from vit_cnn.run.display import RunDisplay, print_results
from vit_cnn.run.files import remove, write_atomically
from vit_cnn.run.lock import alone
from vit_cnn.run.media import Media
from vit_cnn.run.result import read_result
from vit_cnn.run.stop import StopSignal
from vit_cnn.run.tracking import Tracker
from vit_cnn.training.augment import Augmentation
from vit_cnn.training.batches import Batches
from vit_cnn.training.beginning import tell_beginning
from vit_cnn.training.continuation import note_continuation
from vit_cnn.training.cuda_graph import Captured
from vit_cnn.training.finish import final_pass, write_result
from vit_cnn.training.limits import memory_in_words
from vit_cnn.training.optim import learning_rate, set_learning_rate
from vit_cnn.training.plan import Plan, plan_run
from vit_cnn.training.precision import autocast_for, use_whole_fp32
from vit_cnn.training.scoring import logits_of, score
from vit_cnn.training.speed import Speed, peak_flops
from vit_cnn.training.state import State, build_state, device_of, mend_best, not_finite
from vit_cnn.training.step import means, training_step

log = logging.getLogger(__name__)

SAVE_EVERY = 5.0  # seconds: where an epoch is shorter than that, not each of them is followed by a checkpoint


@alone
@memory_in_words
def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train as ``cfg`` says, or go on from ``run_dir/last.pt`` where there is one.

    Args:
        cfg: checked by ``config.check``.
        run_dir: run folder; ``vit_cnn/run`` lists its files.

    Returns:
        What ``result.json`` holds.

    Raises:
        Refused: the data or the checkpoint cannot be used, or another process trains here; nothing was started.
        Failed: the loss became infinite or nan, or memory or disk are full.
        Stopped: Ctrl-C or SIGTERM; ``last.pt`` holds the state to go on from.
    """
    share_console_with_logging()
    recipe = cast(Recipe, OmegaConf.to_object(cfg.recipe))  # plain attributes take a hundredth of the time to read
    device = own_device(cfg.trainer.device)
    last = run_dir / "last.pt"

    # Refuse: what can be wrong is found before there is a run.
    with in_turn():
        saved = checkpoint.load_last(run_dir)
        data: Dataset = instantiate(cfg.data).to(device)
    plan = plan_run(cfg, run_dir, data, saved)
    refuse_unlike(images=data.fingerprint, plan=plan)
    if saved and plan.is_done:
        mend_best(run_dir, saved, data)
        return tell_finished(cfg, run_dir, plan)

    # Build: the network, its optimiser, and the step that changes it.
    forget_peak_memory(device)
    if cfg.trainer.keep_freed_memory:
        keep_freed_memory()
    use_whole_fp32()
    torch.backends.cudnn.benchmark = True  # sizes do not change: let cuDNN try which of its algorithms is quickest
    state = build_state(cfg, saved, last, classes=data.classes)
    progress = state.progress
    if saved:
        note_continuation(cfg, recipe, plan, progress, saved=saved)
    precision = precision_of(cfg.trainer.precision)
    autocast = autocast_for(device, precision)
    forward = compiled(state.model) if cfg.trainer.compile else state.model
    batches = Batches(Augmentation(recipe, data=data, seed=cfg.seed, compiled=cfg.trainer.compile))
    # Forward, loss, backward: step.py.
    step = functools.partial(training_step, state=state, forward=forward, recipe=recipe, autocast=autocast)
    learn = Captured(step) if cfg.trainer.cuda_graph else step

    # Begin: from here on there is a run.
    tracker = begin(cfg, run_dir, state, data, plan, wandb_id=saved["wandb_id"] if saved else None)
    display = tracker.display
    media = Media(wandb=tracker.wandb, switches=cfg.wandb.media, data=data)
    log_every = cfg.trainer.log_every or plan.steps_per_epoch
    about = {"wandb_id": tracker.wandb.id, "config": OmegaConf.to_container(cfg), "processes": here.number}

    with StopSignal(resume_command(run_dir, trust_of(cfg)), display) as stop, tracker:
        one_image = data.train.images[:1].float()
        speed = Speed(flops_per_image(state.model, one_image, in_training=True), peak_flops(device, precision))
        if not saved:
            state.save(run_dir, data, **about)  # so that a kill at any moment leaves something to resume
        if progress.step == 0:
            media.inputs(next(batches.of_epoch(0))[0])

        # Train, an epoch at a time.
        while progress.step < plan.last_step:
            epoch, first = divmod(progress.step, plan.steps_per_epoch)
            state.begin_training()
            started = time.perf_counter() - progress.seconds_train
            for images, targets, labels in batches.of_epoch(epoch, first=first):
                lr = learning_rate(progress.step, recipe=recipe, steps_per_epoch=plan.steps_per_epoch)
                set_learning_rate(state.optimizer, lr)
                state.window.append(learn(images, targets, labels))
                if state.average:
                    state.average.update()
                progress.step += 1
                display.step(progress.step)
                if progress.step % log_every == 0:
                    metrics = means(state.window, progress.step)
                    progress.seconds_train = time.perf_counter() - started
                    metrics |= {"lr": lr, **training_metrics(state, speed, recipe.batch_size)}
                    tracker.log(progress.step, epoch=progress.step / plan.steps_per_epoch, **metrics)
                    display.train_metrics(progress.step, metrics)
                if stop.requested or progress.step == plan.last_step:
                    break
            means(state.window, progress.step)  # a loss that is not finite must not reach a checkpoint
            progress.seconds_train = time.perf_counter() - started

            if plan.ends_epoch(progress.step):
                epochs_done, is_last = progress.step / plan.steps_per_epoch, progress.step == plan.last_step
                with state.weights_to_evaluate():
                    val = score(logits_of(forward, data.val, data, autocast), data.val.labels)
                    if not math.isfinite(val["loss"]):
                        raise Failed(not_finite(f"validation loss is {val['loss']:g}", progress.step))
                    is_best = progress.is_best(val)
                    metrics = {"val/loss": val["loss"], "val/acc": val["acc"]}
                    tracker.log(progress.step, epoch=epochs_done, **metrics)
                    display.val_metrics(epochs_done, metrics, is_best=is_best)
                    media.inside(state.model, step=progress.step, epoch=epochs_done, is_last=is_last)
                    if is_best:
                        state.note_best(val)
            if stop.requested or progress.step == plan.last_step or tracker.seconds - progress.seconds > SAVE_EVERY:
                progress.seconds = tracker.seconds
                state.save(run_dir, data, **about)
            if stop.requested:
                raise Stopped(f"Stopped at step {progress.step} of {plan.last_step}.", stop.command)

        # End: the best weights on clean images, once.
        if not cfg.test:
            raise StoppedBeforeTest("Stopped before the test images.", f"{stop.command} test=true")
        state.write_best(run_dir, data)  # a kill may have come after last.pt and before this
        scores = final_pass(state, data, autocast, run_dir=run_dir, media=media, stop=stop)
        result = write_result(
            cfg, run_dir, state=state, data=data, plan=plan, speed=speed, scores=scores, wandb=tracker.wandb
        )
    print_results([result])
    return result


def tell_finished(cfg: DictConfig, run_dir: Path, plan: Plan) -> dict[str, Any]:
    is_cut = plan.last_step == cfg.max_steps
    why = f"It ends at max_steps={cfg.max_steps}" if is_cut else "A larger recipe.epochs trains it further"
    log.info("%s is finished; nothing to do. %s.", run_dir, why)
    print_results([result := read_result(run_dir)])
    return result


def compiled(model: nn.Module) -> nn.Module:
    """The same network, with the same weights, whose passes in training and in evaluation are compiled."""
    torch.compiler.reset()  # else Dynamo counts the networks of a sweep's earlier jobs, and gives up at the ninth
    # A program for each size of batch, of which there are three: one for all sizes is slower, and failed to compile.
    return cast(nn.Module, torch.compile(model, dynamic=False))


def begin(cfg: DictConfig, run_dir: Path, state: State, data: Dataset, plan: Plan, *, wandb_id: str | None) -> Tracker:
    """Write the config into the run folder, say what is to be trained, on what, where, and begin the record of it."""
    model, progress = state.model, state.progress
    (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / ".hydra" / "config.yaml", lambda file: file.write(OmegaConf.to_yaml(cfg).encode()))
    remove(run_dir / "result.json")  # its presence means that the run has finished
    example = normalise(data.train.images[: cfg.recipe.batch_size], data.mean, data.std)
    # Makes one plain pass, which has to come before any captured step: else Dynamo would compile again at the first
    # real one, which is impossible within a capture.
    console.print(size_table(model, example, every_layer=cfg.layers))
    about = data.describe()
    counts = f"{about['train']} training, {about['val']} validation, {about['test']} test images"
    log.info("%s: %s", data.name, counts)
    if data.skipped:
        write_atomically(run_dir / "skipped.txt", lambda file: file.write("\n".join([*data.skipped, ""]).encode()))
        log.warning("%d files cannot be read and are left out: %s", len(data.skipped), run_dir / "skipped.txt")
    device, precision = device_name(torch.device(cfg.trainer.device)), precision_of(cfg.trainer.precision)
    if precision == "bf16" and not has_quick_bf16(torch.device(cfg.trainer.device)):
        log.warning("trainer.precision=bf16: this processor has no units for it; fp32 is more than ten times as fast")
    several = f", {here.number} processes that share batches of {cfg.recipe.batch_size}" if here.number > 1 else ""
    network = f"{network_name(cfg.model)} on {device}, {precision}{several}"
    log.info("%s; %d steps", network, plan.last_step)
    if progress.init and progress.step == 0:
        tell_beginning(progress.init)
    log.info("Run folder %s", run_dir)
    display = RunDisplay(
        total_steps=plan.last_step,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=cfg.recipe.epochs,
        step=progress.step,
    )
    tracker = Tracker(
        cfg=cfg, run_dir=run_dir, display=display, step=progress.step, seconds=progress.seconds, wandb_id=wandb_id
    )
    if progress.init:
        tracker.wandb.about({"first_weights": progress.init})
    return tracker


def training_metrics(state: State, speed: Speed, batch_size: int) -> dict[str, float]:
    """Speed since the last line of metrics, memory and the norm of the weights; the window begins anew."""
    progress = state.progress
    images = (progress.step - progress.logged_step) * batch_size
    metrics = speed.of(images / (progress.seconds_train - progress.logged_seconds))
    metrics["memory_bytes"] = peak_memory_bytes(device_of(state.model))
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    metrics["param_norm"] = torch.nn.utils.get_total_norm(parameters).item()
    progress.logged_step, progress.logged_seconds = progress.step, progress.seconds_train
    state.window.clear()
    return metrics
