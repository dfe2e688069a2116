"""Several processes at once: in one folder, with one cache of images, in one sweep."""

import functools
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from trainings import OPTIONS, Forked, go_on, missing_lines

from faults.kills import sweep, whole_sweep
from faults.kinds import TooLate, Whole, after_lines, ended_well, killed, start


def in_one_folder(number: int) -> Callable[[Path, Whole], str]:
    """One trains, the others are refused: at the start of a run, or where a killed one is to go on."""

    def crowd(run: Path, whole: Whole) -> str:
        is_broken_off = random.random() < 0.5
        if is_broken_off:
            killed(after_lines(run, random.randint(1, 18)))
        processes = [Forked(f"resume={run}") if is_broken_off else start(run) for _ in range(number)]
        for process in processes:
            ended_well(process, codes=(0, 2))
        trained = [each for each in processes if each.returncode == 0 and "nothing to do" not in each.printed()]
        assert len(trained) == 1, f"{len(trained)} of them trained"
        assert missing_lines(whole.run, run) == 0
        return ""

    return crowd


def with_one_cache(number: int) -> Callable[[Path, Whole], str]:
    """All read the same folder of images and write its cache; one of them is killed and goes on."""

    def crowd(run: Path, whole: Whole) -> str:
        undisturbed, root = whole_folder(whole)
        options = of_images(root, cache=run / "cache")
        runs = [run / str(each) for each in range(number)]
        processes = [Forked(*options, f"hydra.run.dir={each}") for each in runs]
        time.sleep(random.uniform(0.1, 0.5) * whole.seconds * number)
        processes[0].kill()
        for process in processes[1:]:
            ended_well(process, codes=(0,))
        if processes[0].wait() == 0:
            raise TooLate
        go_on(runs[0], options=options)
        assert [missing_lines(undisturbed, each) for each in runs] == [0] * number
        return ""

    return crowd


def of_images(root: Path, *, cache: Path) -> list[str]:
    mine = [f"data.root={root}", f"data.cache={cache}", "data.image_size=16", "data.max_images=null"]
    return [each for each in OPTIONS if not each.startswith("data")] + ["data=folder", *mine]


@functools.cache
def whole_folder(whole: Whole) -> tuple[Path, Path]:
    """A run on a folder of images that nothing disturbs, and that folder."""
    root, run = whole.aside("images"), whole.aside("whole_images")
    generator = np.random.default_rng(0)
    for split, images in (("train", 60), ("test", 20)):
        for name, colour in (("sky", (40, 80, 200)), ("grass", (60, 160, 50))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = np.clip(np.array(colour) + generator.normal(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    go_on(run, options=of_images(root, cache=run.parent / "cache"))
    return run, root


def in_one_sweep(number: int) -> Callable[[Path, Whole], str]:
    def crowd(run: Path, whole: Whole) -> str:
        undisturbed, _ = whole_sweep(whole)
        processes = [sweep(run) for _ in range(number)]
        for process in processes:
            ended_well(process, codes=(0, 2))
        assert any(process.returncode == 0 for process in processes), "none of them ran the sweep"
        for job in undisturbed.glob("seed-*"):
            assert missing_lines(job, run / job.name) == 0
        return ""

    return crowd


KINDS = {
    "two processes in one folder": in_one_folder(2),
    "five processes in one folder": in_one_folder(5),
    "two processes with one cache": with_one_cache(2),
    "five processes with one cache": with_one_cache(5),
    "two processes in one sweep": in_one_sweep(2),
    "five processes in one sweep": in_one_sweep(5),
}
