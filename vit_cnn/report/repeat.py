"""What was run, so that a reader can run it again: the command, the commit and the settings of each group of runs."""

import contextlib
import functools
import itertools
import shlex
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vit_cnn.config import CONF
from vit_cnn.config.paste import in_hydra_grammar
from vit_cnn.config.schema import NO_FIGURE, flat
from vit_cnn.errors import Refused
from vit_cnn.report.groups import by_label, device_of
from vit_cnn.report.page import Page
from vit_cnn.run.config import GROUPS
from vit_cnn.run.reading import Run
from vit_cnn.run.result import nested

NOT_IN_A_COMMAND = (*NO_FIGURE, "data.cache")  # beginnings of keys
SHORT = 12  # digits of a commit


def add_groups(page: Page, runs: list[Run]) -> None:
    """The command, the commit and the machine of each group; below, the settings of all side by side."""
    page.section(
        "What was run",
        "A command for each group of runs that differ in nothing but the seed. It is made from their settings and "
        "gives the same ones, with the files of conf/ as they are now. A click selects it.",
    )
    groups = by_label(runs)
    rows = []
    for label, group in groups.items():
        command = command_of(group) or "none: the files of its network or data set are not in conf/"
        results = [run.result for run in group if run.result]
        commits = ", ".join(sorted({commit_of(result) for result in results})) or "–"
        machines = "; ".join(sorted({machine_of(result) for result in results})) or "–"
        seeds = ", ".join(str(run.seed) + ("" if run.result else f" ({run.status})") for run in group)
        rows.append([label, seeds, commits, machines, command])
    page.add("groups", rows=rows)
    page.write_files("groups", ["", "seeds", "commit", "machine", "command"], rows)
    settings = {label: settings_of(group[0].config) for label, group in groups.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    table = [[key, *(str(each.get(key, "–")) for each in settings.values())] for key in keys]
    page.table("settings", ["setting", *settings], table, folded="All settings")


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(config).items() if not key.startswith((*NOT_IN_A_COMMAND, "seed"))}


def commit_of(result: dict[str, Any]) -> str:
    sha = nested(result, "git.sha")
    if not sha:
        return "unknown"
    return str(sha)[:SHORT] + (" with changes" if nested(result, "git.dirty") else "")


def machine_of(result: dict[str, Any]) -> str:
    return f"{device_of(result)}, {result['precision']}, torch {result['versions']['torch']}"


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
    found = []
    for choice in itertools.product(*(options_like(group, config[group]) for group in GROUPS)):
        with contextlib.suppress(Refused, OmegaConfBaseException):  # timm, which tells a size, may not be here
            found.append(overrides_from(choice, config))
    return min(found, key=len, default=None)


def options_like(group: str, values: dict[str, Any]) -> list[str]:
    """The files of ``conf/<group>`` that make the same kind of object; those that build on another come last."""
    paths = sorted((CONF / group).glob("*.yaml"), key=lambda path: ("defaults:" in path.read_text(), path))
    found = []
    for path in paths:
        with contextlib.suppress(AttributeError, OSError):  # a fork's file that builds on others in a way of its own
            if read_option(group, path.stem).get("_target_") == values.get("_target_"):
                found.append(path.stem)
    return found


def overrides_from(choice: tuple[str, ...], config: dict[str, Any]) -> list[str]:
    """The overrides that compose ``config`` when ``choice`` names an option of each group."""
    options = dict(zip(GROUPS, choice, strict=True))
    base = OmegaConf.merge(
        OmegaConf.load(CONF / "config.yaml"), {group: read_option(group, name) for group, name in options.items()}
    )
    assert isinstance(base, DictConfig)
    known = flat(cast(dict[str, Any], OmegaConf.to_container(base)))
    overrides = [f"{group}={name}" for group, name in options.items()]
    # What refers to another value comes last, since that one may be set by then.
    for key, value in sorted(settings_of(config).items(), key=lambda item: "${" in str(known.get(item[0]))):
        if key not in known or OmegaConf.select(base, key) != value:
            OmegaConf.update(base, key, value, force_add=True)
            overrides.append(f"{'' if key in known else '+'}{key}={in_hydra_grammar(value)}")
    return overrides


@functools.cache
def read_option(group: str, name: str) -> DictConfig:
    """``conf/<group>/<name>.yaml``, with the files that it builds on; what is read from a folder of images is missing.

    Reading it again could take minutes, and the images may not be here any more.
    """
    option = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(option, DictConfig)
    for key, value in cast(dict[str, Any], OmegaConf.to_container(option)).items():
        if "${folder_" in str(value):
            option[key] = MISSING
    before = []
    for each in option.pop("defaults", []):
        other, _, package = each.partition("@")  # vit@network: the file's keys under model.network
        if other != "_self_":
            before.append({package: read_option(group, other)} if package else read_option(group, other))
    return cast(DictConfig, OmegaConf.merge(*before, option))
