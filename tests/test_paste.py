"""What is printed to be pasted is read back as it was meant, by a shell and then by Hydra."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vit_cnn.config.paste import resume_command


@pytest.mark.parametrize("folder", ["runs/vit/1", "runs/a,b", "runs/Köln/1", "runs/a (1)", "runs/a=1", "runs/a'b", "1"])
def test_a_folder_of_any_name(folder: str) -> None:
    words = shlex.split(resume_command(Path(folder), "my_package:other"))
    assert words[:3] == ["python", "-m", "vit_cnn.train"]
    resume, trust = OverridesParser.create().parse_overrides(words[3:])
    assert not resume.is_sweep_override()
    assert getattr(resume.value(), "text", resume.value()) == folder
    assert getattr(trust.value(), "text", trust.value()) == "my_package:other"


def test_a_plain_name_stays_plain() -> None:
    assert resume_command(Path("runs/vit/2026-11-24_10-00-00")) == (
        "python -m vit_cnn.train resume=runs/vit/2026-11-24_10-00-00"
    )
