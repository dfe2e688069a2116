"""What a search has found: its best settings as an experiment, and Optuna's plots."""

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import compose
from omegaconf import OmegaConf
from rich.text import Text

from vit_cnn.config.schema import flat
from vit_cnn.config.space import settings_of
from vit_cnn.console import console
from vit_cnn.errors import Failed

if TYPE_CHECKING:
    from optuna import Study

# Beginnings of keys: all but the machine and the record.
SETTINGS = ("data.", "init", "max_steps", "model.", "recipe.", "seed", "trainer.precision")

EXPERIMENT = """\
# @package _global_
# Question: how good is what the search in {folder} found best by validation accuracy, over seeds?
# Command:  {command} seed=1,2,3 -m
# Expected: about {value:.2%} validation accuracy, as trial {number} of {trials}; a little less, since it was chosen.
"""


def write_search(study: "Study", fixed: list[str], folder: Path) -> None:
    """Write ``experiment/best.yaml`` and ``search.html`` into ``folder``, and say how to go on.

    Raises:
        Failed: no trial was trained to its end.
    """
    from optuna.trial import TrialState

    done = study.get_trials(states=(TrialState.COMPLETE,))
    pruned = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    console.print(f"{len(study.trials)} trials: {len(done)} trained to their end, {pruned} pruned")
    if not done:
        raise Failed(f"no trial was trained to its end; the traceback of each that failed is in its folder in {folder}")
    best = study.best_trial
    words = ["--config-dir", str(folder), *searched(fixed), "experiment=best"]
    command = shlex.join(["python", "-m", "vit_cnn.train", *words])
    header = EXPERIMENT.format(
        folder=folder, command=command, value=best.value, number=best.number, trials=len(study.trials)
    )
    (folder / "experiment").mkdir(exist_ok=True)
    text = header + OmegaConf.to_yaml(OmegaConf.create(experiment([*fixed, *settings_of(best.params)])))
    (folder / "experiment" / "best.yaml").write_text(text)
    (folder / "search.html").write_text(plots(study))
    console.print(Text(f"Best: trial {best.number}, {best.value:.2%}: {' '.join(settings_of(best.params))}"))
    console.print(Text(f"Plots: {folder / 'search.html'}. To train with these settings:\n  {command}"), soft_wrap=True)


def experiment(overrides: list[str]) -> dict[str, Any]:
    """An experiment that says the same as ``overrides``: the choices of groups, and what differs from their files."""
    cfg = compose("config", overrides=overrides, return_hydra_config=True)
    choices = {group: cfg.hydra.runtime.choices[group] for group in ("model", "data", "recipe")}
    plain = compose("config", overrides=[*searched(overrides), *settings_of(choices)])
    before, after = (flat(cast(dict[str, Any], OmegaConf.to_container(each))) for each in (plain, cfg))
    content = OmegaConf.create({"defaults": [{f"override /{group}": choice} for group, choice in choices.items()]})
    for key, value in after.items():
        if key.startswith(SETTINGS) and (key not in before or before[key] != value):
            OmegaConf.update(content, key, value, force_add=True)
    return cast(dict[str, Any], OmegaConf.to_container(content))


def searched(overrides: list[str]) -> list[str]:
    """The override that names the user's own folder of YAML files."""
    return [each for each in overrides if each.startswith("hydra.searchpath=")]


def plots(study: "Study") -> str:
    """One page of Optuna's plots that opens without network."""
    from optuna import visualization

    parts = ["<!doctype html><meta charset='utf-8'><title>Search</title>"]
    for plot in (visualization.plot_optimization_history, visualization.plot_slice,
                 visualization.plot_intermediate_values, visualization.plot_param_importances):  # fmt: skip
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                figure = plot(study)
        except (RuntimeError, ValueError, UserWarning):  # importance needs more trials, which differ
            continue
        parts.append(figure.to_html(full_html=False, include_plotlyjs=len(parts) == 1))
    return "\n".join(parts)
