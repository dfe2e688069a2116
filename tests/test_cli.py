"""One way in: every command by its name, each with help and an example."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY, call
from hydra.core.global_hydra import GlobalHydra

from vit_cnn import __main__ as cli


def say(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    GlobalHydra.instance().clear()
    return call(cli.main, arguments, monkeypatch, capfd)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed = say([command, "--help"], monkeypatch, capfd)
    assert code == 0, printed
    assert "xample: vit-cnn " in " ".join(printed.split())


def test_the_list_of_commands(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        code, printed = say(arguments, monkeypatch, capfd)
        assert code == 0
        assert all(command in printed for command in cli.COMMANDS)
        assert max(map(len, printed.splitlines())) <= 80 + 10
    code, printed = say(["trian"], monkeypatch, capfd)
    assert code == 2
    assert printed.startswith("error: trian is not a command; there are train, ")


def test_from_training_to_a_look_at_it(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(["train", *TINY, "max_steps=2", "hydra.run.dir=first"], monkeypatch, capfd)[0] == 0
    code, printed = say(["evaluate", "first", "split=val"], monkeypatch, capfd)
    assert code == 0, printed
    assert say(["evaluate", "run=first", "split=val"], monkeypatch, capfd) == (code, printed)
    code, printed = say(["compare", "first"], monkeypatch, capfd)
    assert code == 0
    assert "test accuracy" in printed
    code, printed = say(["sweep", *TINY, "max_steps=1", "model.dropout=0,0.2"], monkeypatch, capfd)
    assert code == 0, printed
    assert len(list(Path("runs/sweeps").rglob("result.json"))) == 2


def test_the_script_is_installed() -> None:
    done = subprocess.run([Path(sys.executable).with_name("vit-cnn"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "usage: vit-cnn COMMAND" in done.stdout
