"""An installed package works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_brings_its_conf_along(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = Path("wheels").glob("*.whl")
    beside_the_code = ("report/page.html", "report/page.css", "play/page.css", "play/pad.js")
    assert {f"vit_cnn/{name}" for name in beside_the_code} <= set(zipfile.ZipFile(wheel).namelist())
    subprocess.run([*pip, "install", "--no-deps", "--target", "site", str(wheel)], check=True, capture_output=True)
    Path("empty").mkdir()
    call = [sys.executable, "-m", "vit_cnn.train", "--cfg", "job", "--resolve", "model=cnn", "data=digits"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(call, cwd="empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "name: cnn-digits" in done.stdout
    code = "import vit_cnn.config, vit_cnn.training.loop; print(vit_cnn.config.CONF)"
    where = subprocess.run([sys.executable, "-c", code], cwd="empty", env=environment, capture_output=True, text=True)
    assert where.stdout.strip() == str(tmp_path / "site" / "vit_cnn" / "conf"), where.stderr
