"""What can end a run early, and what the user reads then: one or two lines and an exit code, no traceback.

Hydra is imported where it is needed: commands import this first, and Ctrl-C has to be answered from then on.
"""

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FINISHED = 0
FAILED = 1
REFUSED = 2  # a bad command, config or data set; nothing was started
STOPPED = 3  # and can be resumed
INTERRUPTED = 130  # before there was anything to resume; what shells report after Ctrl-C

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on instead of printing them its own way

LAUNCHERS = {  # and the package each needs
    "cores": "hydra-joblib-launcher",
    "joblib": "hydra-joblib-launcher",
    "slurm": "hydra-submitit-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
WRONG_PATH = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)  # a file where a folder is wanted, or too long a name

NEEDS_PACKAGE = "has to begin with the line `# @package _global_`: without it, its keys do nothing"


class Refused(Exception):
    """The command, the config or the data cannot be used; the message names the key and says what is allowed."""


class Failed(Exception):
    """The run broke off; the message says where, and what is kept."""


class Stopped(Exception):
    """A run or a sweep was asked to stop; ``command`` goes on with it, ready to be pasted into a shell."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(f"{message} To go on: {command}")
        self.command = command


class StoppedBeforeTest(Stopped):
    """All of the training is done; only the look at the test images is left."""


def for_child() -> dict[str, str]:
    """The environment for a process that this one starts: without what was set above, so that errors stay a line."""
    return {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR" or WANTS_TRACEBACK}


def exit_with_code(main: Callable[[], object]) -> None:
    """Run ``main`` and exit with the code of its end; an expected error is told in a line.

    ``HYDRA_FULL_ERROR=1`` brings the traceback back.
    """
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        if not is_expected(error):
            raise
        sys.exit(tell(error))
    sys.exit(FINISHED)


def tell(error: BaseException) -> int:
    """Print an expected error for the user and return the exit code."""
    code = code_of(error)
    if code in (INTERRUPTED, STOPPED):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python ends slowly: another Ctrl-C must not show a traceback
    text = one_line(error) if code in (INTERRUPTED, STOPPED) else f"error: {one_line(error)}"
    if isinstance(error, Stopped):
        text = text.replace(f" {error.command}", f"\n  {error.command}")  # whole, where a terminal has 80 columns
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr)
    return code


def code_of(error: BaseException) -> int:
    """The exit code that an error ends in."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    codes = {KeyboardInterrupt: INTERRUPTED, Refused: REFUSED, Failed: FAILED, Stopped: STOPPED}
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code
    return REFUSED if is_expected(error) and not limit_reached(error) else FAILED


def is_expected(error: BaseException) -> bool:
    """Whether the message says it all: our own errors, Ctrl-C, and whatever Hydra's reading of a command raises."""
    if WANTS_TRACEBACK:
        return False
    if isinstance(error, (Refused, Failed, Stopped, KeyboardInterrupt)) or limit_reached(error) or wrong_path(error):
        return True
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return raised_in.split(".")[0] in ("hydra", "omegaconf")


def one_line(error: BaseException) -> str:
    """The message for a person: ours as it is, Hydra's and OmegaConf's without search paths and object dumps."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Interrupted."
    from hydra.errors import (
        ConfigCompositionException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import OmegaConfBaseException

    for cause in causes(error):  # ours may be wrapped, when a resolver or a constructor raised it
        if isinstance(cause, (Refused, Failed, Stopped)):
            return str(cause)
        if isinstance(cause, MissingConfigException):
            group, _, choice = (cause.missing_cfg_file or "").rpartition("/")
            if group == "hydra/launcher" and choice in LAUNCHERS:
                return f"This hydra/launcher needs {LAUNCHERS[choice]}: pip install {LAUNCHERS[choice]}"
            if cause.options is None:
                continue
            return f"{group}={choice}: there is no such option, but there are {', '.join(sorted(cause.options))}"
    if said := limit_reached(error) or wrong_path(error):
        return said
    if isinstance(error, OverrideParseException):
        if tilde := re.match(r"\+*([\w./@-]+)=(~.*)", str(error.override)):
            return f"{error.override!r} cannot be read: write {tilde[1]}=$HOME{tilde[2][1:]}"
        if re.match(r"[~+]*[\w./@-]+=[^\[{]*$", str(error.override)):
            return f"{error.override!r} cannot be read: quote the value, such as \"data.root='my images (1)'\""
        return f"{error.override!r} is not of the form key=value"
    key_error = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(key_error, OmegaConfBaseException):
        return not_a_key(str(key_error.full_key), key_error.parent_node)
    if headless := re.match(r"In '(experiment/[^']+)': Could not override '[^']*@experiment\.", str(error)):
        return f"{headless[1]}.yaml {NEEDS_PACKAGE}"
    if re.match(r"Ambiguous value for argument", str(error)):
        key, value = str(error).split("'")[1].split("=", maxsplit=1)
        return f"{key}={value} is several values: for a run of each, add -m; for a list, write {key}=[{value}]"
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing[1]} is missing: give it on the command line, {missing[1]}=…"
    if isinstance(error, OmegaConfBaseException) and str(error).startswith("Missing key") and error.full_key:
        return f"{error.full_key} is missing"
    text = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error))
    leftover = re.compile(r" *(full_key:|object_type=|$)")
    lines = [line.strip() for line in text.splitlines() if not leftover.match(line)]
    where = place(error.__cause__) if isinstance(error, InstantiationException) and error.__cause__ else ""
    return " ".join(lines[:2]) + where if lines else type(error).__name__


def limit_reached(error: BaseException) -> str | None:
    """What of the machine has come to its end, in a line; ``None`` for any other error."""
    for cause in causes(error):
        if is_out_of_memory(cause):
            return f"out of memory: {first_line(cause) if str(cause) else 'it is all in use'}"
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return f"too many files are open: raise the limit, which ulimit -n shows ({cause.strerror})"
        if isinstance(cause, OSError) and cause.errno in (*FULL, *NOT_WRITABLE) and cause.filename is not None:
            return f"{shown(cause.filename)}: {cause.strerror}"
        if isinstance(cause, OSError) and cause.errno in FULL:  # a write does not tell its file
            return f"the disk is full: {cause.strerror}"
    return None


def wrong_path(error: BaseException) -> str | None:
    """What is wrong with a path that was given, in a line; ``None`` for any other error."""
    if isinstance(error, OSError) and error.errno in WRONG_PATH and error.filename is not None:
        return f"{shown(error.filename)}: {error.strerror}"
    return None


def first_line(error: BaseException) -> str:
    """Of the message of any library's error, which may have pages of it, or none at all."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's memory or a GPU's is used up; torch has no class of its own for the first."""
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_torchs)


def not_a_key(key: str, parent: Any) -> str:
    """The message for a key that is not there, with the one that may have been meant, here or elsewhere in the config.

    Args:
        parent: the part of the composed config in which it was looked for.
    """
    from omegaconf import DictConfig

    known = [str(each) for each in parent or () if each != "hydra"]
    group, _, name = key.rpartition(".")
    meant = [f"{group}.{each}".lstrip(".") for each in difflib.get_close_matches(name, known, n=1)]
    target = str(parent.get("_target_", "")) if isinstance(parent, DictConfig) else ""
    if target and not meant and not target.startswith("vit_cnn."):
        has = ", ".join(each for each in known if each != "_target_") or "none"
        return f"{key} is not a key of its file, which has {has}; +{key}=… hands it to {target} all the same"
    if not meant and isinstance(parent, DictConfig):
        everywhere = {each.rsplit(".", maxsplit=1)[-1]: each for each in reversed(dotted(parent._get_root()))}
        meant = [everywhere[each] for each in difflib.get_close_matches(name, everywhere, n=1, cutoff=0.8)]
    hint = f": did you mean {meant[0]}?" if meant else f"; there are {', '.join(known)}"
    return f"{key} is not a key{hint}"


def dotted(config: Any, prefix: str = "") -> list[str]:
    """The keys of a config, joined with dots; those of Hydra itself and targets left out."""
    from omegaconf import DictConfig

    found = []
    for key in map(str, config):
        if key in ("hydra", "_target_"):
            continue
        found.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            found += dotted(node, f"{prefix}{key}.")
    return found


def place(error: BaseException) -> str:
    """Where in the user's own files an error arose, such as ``, my_package/nets.py, line 12``; else empty."""
    if isinstance(error, SyntaxError):
        return ""  # its message says it
    not_theirs = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    not_theirs.append(Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in not_theirs):
            return f", {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}, line {frame.lineno}"
    return ""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(path: str | Path) -> str:
    """A path for a message: as it is, or quoted where it holds line breaks or bytes that are no text."""
    return str(path) if str(path).isprintable() else repr(str(path))
