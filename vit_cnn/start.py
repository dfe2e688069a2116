"""From the command line to the loop: Hydra composes the config, which is checked and handed to ``training/loop.py``."""

import contextlib
import inspect
import json
import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from vit_cnn import config, sweep
from vit_cnn.config.paste import resume_command, resume_words
from vit_cnn.config.trust import trust_of
from vit_cnn.console import console
from vit_cnn.errors import Refused, Stopped, is_expected, tell
from vit_cnn.processes.joined import hash_of, joined, remember, remembered
from vit_cnn.processes.together import from_first, here, is_first, refuse_hidden, refuse_unlike
from vit_cnn.run.config import read_config

RUN = "run"  # key under which process 0 keeps, for a restart, its folder and what goes on with it


def start() -> None:
    """Train as the command line says, once or for each job of a sweep; of several processes, the first one reads it.

    Raises:
        KeyboardInterrupt: before there was anything to go on from.
        Stopped: a sweep was interrupted.
    """
    try:
        with joined():
            if is_first():
                go_on_after_restart()
                run()
            else:
                follow()
    except KeyboardInterrupt as error:
        logging.getLogger().handlers.clear()  # a half-imported torch logs at exit, into a folder that may be gone
        raise sweep.stopped() or error from None
    except Exception as error:
        sweep.tell_lost(error)
        raise
    finally:
        sweep.end()
        console.file.flush()  # where nobody reads it, Python would end with a code of its own


@hydra.main(config_path=str(config.CONF), config_name="config", version_base="1.3")
def run(composed: DictConfig) -> None:
    """Train once, in the folder that Hydra has made; a sweep calls this for each of its jobs."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if run_dir.is_relative_to(Path.cwd()):
        run_dir = run_dir.relative_to(Path.cwd())  # shorter in messages
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    is_own = is_sweep or bool(composed.resume)  # the folder, to be removed where nothing begins in it
    try:
        refuse_hidden_files()
        if is_sweep:
            if composed.resume:
                raise Refused("resume= goes on with one run, -m starts many: leave out one of the two")
            sweep.run_job(run_dir, lambda: config.check(composed))
            return
        if composed.resume and Path(composed.resume).resolve() != run_dir.resolve():
            raise Refused(f"resume={composed.resume} goes on in that folder: leave out hydra.run.dir={run_dir}")
        is_own = is_own or claims(run_dir)
        if not is_own:
            raise taken(run_dir)
        cfg = config.check(resumed(run_dir, composed) if composed.resume else composed)

        from vit_cnn.training.loop import train  # imports torch, which takes seconds

        remember(RUN, json.dumps([str(run_dir), *resume_words(run_dir, trust_of(cfg))]))
        from_first((OmegaConf.to_container(cfg), run_dir.resolve()))
        refuse_differences(cfg, run_dir)
        result = train(cfg, run_dir)
        if cfg.wandb.artifacts and result["wandb"]["mode"] == "online":
            from vit_cnn.report.upload import upload_report

            upload_report(cfg, run_dir, result["wandb"]["id"])
    except Exception as error:
        if is_expected(error):  # told here, since Hydra would print a line of its own first
            sys.exit(tell(error))
        raise
    except KeyboardInterrupt:
        if is_sweep or not (run_dir / ".hydra" / "config.yaml").exists():
            raise
        if (run_dir / "result.json").exists():
            sys.exit(tell(KeyboardInterrupt(f"Stopped; {run_dir} is finished.")))  # all but the upload of its report
        trust = composed.trust or (None if composed.resume else trust_of(composed))
        when = "it went on" if composed.resume else "the first step"
        sys.exit(tell(Stopped(f"Stopped before {when}.", resume_command(run_dir, trust))))
    finally:
        if is_own:
            remove_if_empty(run_dir)


def follow() -> None:
    """Train, without a word, what process 0 has read and checked, in the folder that it has claimed."""
    console.quiet = True
    logging.disable()
    composed, run_dir = from_first(None)
    composed["wandb"]["mode"], composed["tensorboard"] = "disabled", False
    cfg = config.check(OmegaConf.create(composed))

    from vit_cnn.training.loop import train

    refuse_differences(cfg, run_dir)
    train(cfg, run_dir)


def refuse_differences(cfg: DictConfig, run_dir: Path) -> None:
    """End all processes where one does not see the run folder, or has other code of a network or data set.

    Raises:
        Refused: names the process.
    """
    if here.number == 1:
        return
    refuse_hidden(run_dir)
    for target in (cfg.model._target_, cfg.data._target_):  # may be the user's own
        module = inspect.getmodule(get_object(target))
        file = getattr(module, "__file__", None)
        refuse_unlike(**{f"code of {target}": hash_of([Path(file)] if file else [])})


def go_on_after_restart() -> None:
    """Where torchrun has started the processes anew, since one has died: go on with the run of those before."""
    kept = remembered(RUN)
    if kept is None or any(word.startswith("resume=") for word in sys.argv):
        return
    folder, *words = json.loads(kept)
    if (Path(folder) / ".hydra" / "config.yaml").exists():
        print(f"torchrun has started the processes anew: going on with {folder}", flush=True)
        sys.argv[1:] = words
    else:  # nothing has begun there
        (Path(folder) / ".hydra" / "lock").unlink(missing_ok=True)
        remove_if_empty(Path(folder))


def claims(run_dir: Path) -> bool:
    """Take the folder: of those that start in it at once, one makes ``.hydra``, and it alone may remove it again."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if any(run_dir.iterdir()):
            return False
        (run_dir / ".hydra").mkdir()
    except (FileExistsError, FileNotFoundError):  # another start was quicker, or has just removed its own
        return False
    return True


def refuse_hidden_files() -> None:
    """Refuse a file of ``--config-dir`` that was asked for and has the name of one in ``conf/``, which comes first."""
    runtime = HydraConfig.get().runtime
    for source in runtime.config_sources:
        for group, choice in runtime.choices.items() if source.provider == "command-line" else ():
            config.refuse_hidden_file(Path(source.path), group, str(choice))


def taken(run_dir: Path) -> Refused:
    """Why a start cannot have the folder."""
    if not (run_dir / ".hydra" / "config.yaml").exists() and [*run_dir.glob("*")] in ([], [run_dir / ".hydra"]):
        return Refused(f"hydra.run.dir={run_dir} belongs to a start that goes on, or was killed early: then remove it")
    return Refused(f"hydra.run.dir={run_dir} is not empty: choose another folder, or go on with resume={run_dir}")


def resumed(run_dir: Path, composed: DictConfig) -> DictConfig:
    """The config that the run was started with, and from this command line only trainer, recipe.epochs and test."""
    saved = read_config(run_dir, trust=composed.trust or "")
    has_checkpoint = any((run_dir / name).exists() for name in ("last.pt", "previous.pt"))
    if saved.model.get("pretrained") and not has_checkpoint:
        raise Refused(f"{run_dir} has no last.pt, and model.pretrained=true would download weights: start a new run")
    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key.split(".")[0] == "trainer" or key in ("recipe.epochs", "test"):
            OmegaConf.update(saved, key, OmegaConf.select(composed, key), merge=False)
        elif key not in ("resume", "trust"):
            allowed = "only trainer, recipe.epochs and test may be given beside resume"
            raise Refused(f"{override} cannot change in a resumed run: {allowed}")
    return saved


def remove_if_empty(run_dir: Path) -> None:
    """Remove the folder of a run that never began, and ``runs/<name>`` around it where nothing else is in it."""
    folders = [run_dir / ".hydra", run_dir, run_dir.parent, run_dir.parent.parent]
    for folder in folders if folders[-1].name == "runs" else folders[:2]:
        with contextlib.suppress(OSError):  # not there, not empty, or somebody else was quicker
            folder.rmdir()
