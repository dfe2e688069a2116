"""What was run, so that a reader can run it again: the command, the commit and the settings of each group of runs."""

import re
import shlex
from typing import Any, cast

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vit_cnn.config import CONF
from vit_cnn.config.schema import flat
from vit_cnn.report.groups import by_label
from vit_cnn.report.page import Page
from vit_cnn.run.reading import Run

GROUPS = ("model", "data", "recipe", "trainer")
CHANGES_NOTHING = ("name", "resume", "experiment", "layers", "wandb", "data.cache")  # beginnings of keys
SHORT = 12  # digits of a commit
PLAIN_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")  # needs no quotes in Hydra's grammar
RESERVED = ("null", "true", "false", "nan", "inf")


def add_groups(page: Page, runs: list[Run]) -> None:
    """The command, the commit and the machine of the runs with one label; below, the settings of all side by side."""
    page.section(
        "What was run",
        "A command for each group of runs that differ in nothing but the seed. It is made from their settings and "
        "gives the same ones, with the files of conf/ as they are now. A click selects it.",
    )
    groups = by_label(runs)
    rows = []
    for label, group in groups.items():
        command = command_of(group) or "none: conf/ has no such network or data set any more"
        results = [run.result for run in group if run.result]
        commits = ", ".join(sorted({commit_of(result) for result in results})) or "–"
        machines = "; ".join(sorted({machine_of(result) for result in results})) or "–"
        seeds = ", ".join(str(run.seed) + ("" if run.result else f" ({run.status})") for run in group)
        page.heading(label)
        known = f"Commit: {commits}. Machine: {machines}." if results else "No run has finished."
        page.text(f"Seeds: {seeds}. {known}")
        page.add("command", text=command)
        rows.append([label, seeds, commits, machines, command])
    page.write_files("groups", ["", "seeds", "commit", "machine", "command"], rows)
    settings = {label: settings_of(group[0].config) for label, group in groups.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    table = [[key, *(str(each.get(key, "–")) for each in settings.values())] for key in keys]
    page.table("settings", ["setting", *settings], table, folded="All settings")


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(config).items() if not key.startswith((*CHANGES_NOTHING, "seed"))}


def commit_of(result: dict[str, Any]) -> str:
    git = result["git"]
    if not git["sha"]:
        return "unknown"
    return git["sha"][:SHORT] + (" with changes" if git["dirty"] else "")


def machine_of(result: dict[str, Any]) -> str:
    return f"{result['device']}, {result['precision']}, torch {result['versions']['torch']}"


def command_of(group: list[Run]) -> str | None:
    """What trains the runs of one group again, for a shell; ``None`` where ``conf/`` has no options like theirs."""
    overrides = overrides_of(group[0].config)
    if overrides is None:
        return None
    seeds = sorted({run.seed for run in group})
    several = ["-m"] if len(seeds) > 1 else []
    words = ["python", "-m", "vit_cnn.train", *several, *overrides, f"seed={','.join(map(str, seeds))}"]
    return shlex.join(words)


def overrides_of(config: dict[str, Any]) -> list[str] | None:
    """The shortest overrides that compose ``config`` from ``conf/``, the seed left out.

    An experiment is not among them: what it sets is, value by value.
    """
    options = {group: nearest_option(group, config[group]) for group in GROUPS}
    if None in options.values():
        return None
    base = OmegaConf.load(CONF / "config.yaml")
    base = OmegaConf.merge(base, {group: read_option(group, str(option)) for group, option in options.items()})
    assert isinstance(base, DictConfig)
    overrides = [f"{group}={option}" for group, option in options.items()]
    # What refers to another value comes last, since that one may be set by then.
    for key, value in sorted(settings_of(config).items(), key=lambda item: is_reference(base, item[0])):
        is_new = key not in flat(cast(dict[str, Any], OmegaConf.to_container(base)))
        if is_new or value_of(base, key) != value:
            OmegaConf.update(base, key, value, force_add=True)
            overrides.append(f"{'+' if is_new else ''}{key}={in_hydra_grammar(value)}")
    return overrides


def nearest_option(group: str, values: dict[str, Any]) -> str | None:
    """The file of ``conf/<group>`` with the most values in common, among those that make the same object."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        option = read_option(group, path.stem)
        if option.get("_target_") == values.get("_target_"):
            plain = cast(dict[str, Any], OmegaConf.to_container(option))
            found[path.stem] = sum(flat(plain).get(key) == value for key, value in flat(values).items())
    return max(found, key=lambda name: found[name]) if found else None


def read_option(group: str, name: str) -> DictConfig:
    """``conf/<group>/<name>.yaml``, with the files that it builds on."""
    option = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(option, DictConfig)
    before = [read_option(group, each) for each in option.pop("defaults", []) if each != "_self_"]
    return cast(DictConfig, OmegaConf.merge(*before, option))


def is_reference(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and (name not in node or OmegaConf.is_interpolation(node, name))


def value_of(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # it is read from a folder of images that is not here any more
        return None


def in_hydra_grammar(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(in_hydra_grammar, value))}]"
    if isinstance(value, str) and (not PLAIN_WORD.fullmatch(value) or value.lower() in RESERVED):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return str(value)
