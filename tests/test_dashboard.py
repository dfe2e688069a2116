"""The W&B workspace as code: without a key it becomes a file, and it shows what runs really log."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import call, run, wandb_history

from vit_cnn import dashboard


def test_without_a_key_the_specification_is_written(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, printed = call(dashboard.main, ["--project", "mine", "--out", "new/dashboard.json"], monkeypatch, capfd)
    assert code == 0, printed
    assert "To publish it: wandb login" in printed
    written = json.loads(Path("new/dashboard.json").read_text())
    assert (written["project"], written["displayName"]) == ("mine", dashboard.NAME)
    sections = written["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Curves by network", "Test", "Errors", "Inside", "Sweep"]
    assert all(section["panels"] for section in sections)


def test_its_panels_show_what_a_run_logs() -> None:
    result = run("run", "wandb.mode=offline")
    logged = {key.removesuffix("._type") for line in wandb_history() for key in line} | {*result}
    text = json.dumps(
        dashboard.workspace(entity="me", project="mine")._to_model().model_dump(mode="json", by_alias=True)
    )
    shown = set(re.findall(r'"((?:train|val|test)/\w+|attention|filters|inputs|grad_norm|images_per_second)"', text))
    assert len(shown) >= 12
    assert shown <= logged, shown - logged


def test_with_a_key_it_needs_an_owner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    code, printed = call(dashboard.main, [], monkeypatch, capfd)
    assert code == 2
    assert "--entity is missing" in printed


def test_a_refusal_of_wandb_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Refusing:
        def save(self) -> Any:
            raise ConnectionError("no route")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(dashboard, "workspace", lambda **_: Refusing())
    code, printed = call(dashboard.main, ["--entity", "me"], monkeypatch, capfd)
    assert code == 1
    assert "the dashboard cannot be saved: no route" in printed
