"""The same bits again, and after a stop, a kill or a change on resume; what is recorded of going on."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, composed, metrics, run, stop_at, weights
from trainings import Forked, lines, until

from vit_cnn.errors import Refused, Stopped
from vit_cnn.training import state
from vit_cnn.training.loop import train
from vit_cnn.training.state import build_state

Command = Callable[..., tuple[int, str]]


def assert_same_run(a: str, b: str) -> None:
    """Bit-identical: every weight, every metric but the times, and the result's figures."""
    assert metrics(a) == metrics(b)
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(a, name), weights(b, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    results = [json.loads((Path(folder) / "result.json").read_text()) for folder in (a, b)]
    for key in ("train/loss", "val/acc", "val/loss", "test/acc", "test/loss", "best_epoch", "steps", "epochs"):
        assert results[0][key] == results[1][key], key


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run that nothing interrupted."""
    folder = str(tmp_path_factory.mktemp("whole"))
    run(folder)
    return folder


def test_the_same_command_gives_the_same_bits() -> None:
    run("a", "model.dropout=0.3")
    run("b", "model.dropout=0.3")
    assert_same_run("a", "b")
    run("c", "model.dropout=0.3", "seed=4")
    assert metrics("c") != metrics("a")


@pytest.mark.parametrize("step", [3, 5, 8, 10])  # within a window of metrics, at an epoch's end, later, at the very end
def test_stopped_and_resumed_is_the_same_as_uninterrupted(
    step: int, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(
            Stopped, match=f"Stopped at step {step} of 10. To go on: python -m vit_cnn.train resume=parts"
        ):
            run("parts")
    assert json.loads(Path("parts/status.json").read_text())["status"] == "stopped"
    assert not Path("parts/result.json").exists()
    run("parts")
    assert_same_run(whole, "parts")


def test_killed_at_a_random_moment_and_resumed_is_the_same_as_uninterrupted(command: Command) -> None:
    long = [*TINY, "recipe.epochs=6", "model.dropout=0.2"]
    run("whole", *long[len(TINY) :])
    process = Forked(*long, "hydra.run.dir=parts")  # with a checkpoint after each epoch
    wanted = random.randint(1, 14)
    until(process, lambda: lines(Path("parts")) >= wanted)
    process.kill()
    process.wait()
    assert not Path("parts/result.json").exists(), f"killed too late after {wanted} lines: {process.printed()}"
    with open("parts/metrics.jsonl", "a") as file:
        file.write('{"step": 9999, "tor')  # a line that the kill tore
    code, printed = command("resume=parts")
    assert code == 0, printed
    assert_same_run("whole", "parts")
    assert not Path("runs").exists()


def test_a_second_interrupt_does_not_wait_for_the_step(
    command: Command, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 7, times=2)
        code, printed = command(*TINY, "hydra.run.dir=parts")
    assert code == 3, printed
    assert "Stopped at once; the last checkpoint is kept. To go on:\n  python -m vit_cnn.train resume=parts" in printed
    assert json.loads(Path("parts/status.json").read_text())["status"] == "stopped"
    assert command("resume=parts")[0] == 0
    assert_same_run(whole, "parts")


def test_resume_by_command_changes_only_what_it_may(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        code, printed = command(*TINY, "hydra.run.dir=run")
    assert code == 3, printed
    assert "To go on:\n  python -m vit_cnn.train resume=run\n" in printed

    for refused in ("seed=1", "recipe.optimizer.lr=1", "model=cnn", "+recipe.epochs.x=1"):
        code, printed = command("resume=run", refused)
        assert code == 2, printed
    code, printed = command("resume=run", "seed=1")
    assert "seed=1 cannot change in a resumed run" in printed
    code, printed = command("resume=run", "hydra.run.dir=other")
    assert (code, "resume=run goes on in that folder: leave out hydra.run.dir=other" in printed) == (2, True)
    assert not Path("other").exists()
    code, printed = command("resume=nowhere")
    assert code == 2
    assert "resume=nowhere is not a run folder" in printed

    code, printed = command("resume=run", "trainer.log_every=1", "recipe.epochs=3")
    assert code == 0, printed
    assert [line["step"] for line in metrics("run") if "lr" in line] == [2, *range(4, 16)]
    assert not Path("runs").exists()

    before = Path("run/result.json").read_bytes()
    code, printed = command("resume=run")
    assert code == 0
    assert "is finished; nothing to do" in printed
    run("short", "recipe.epochs=1", "max_steps=1000")
    assert "A larger recipe.epochs trains it further." in command("resume=short")[1]
    assert Path("run/result.json").read_bytes() == before

    code, printed = command("resume=run", "recipe.epochs=2")
    assert code == 2
    assert "recipe.epochs=2 is below the 3 epochs" in printed
    code, printed = command("resume=run", "recipe.epochs=4")
    assert code == 0
    assert json.loads(Path("run/result.json").read_text())["epochs"] == 4


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_difference() -> None:
    run("run", "max_steps=2")
    Path("run/result.json").unlink()
    with pytest.raises(
        Refused, match=r"does not fit the network: blocks\.0.* is \[.*32.*\] in the checkpoint and \[.*64"
    ):
        run("run", "model.embed_dim=64")
    with pytest.raises(Refused, match="other images or another split"):
        run("run", "data.val_fraction=0.3")
    Path("run/last.pt").write_bytes(b"torn")
    with pytest.raises(Refused, match=r"last\.pt is damaged"):
        run("run")


def test_best_weights_and_what_is_said_of_them_are_of_one_piece(whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill can leave a ``best.pt`` of a later step than ``last.pt``: of a part that the resumed run does again."""
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(Stopped):
            run("parts")
    best = torch.load("parts/best.pt", weights_only=True)
    later = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in best["model"].items()}
    torch.save(best | {"model": later, "step": 9}, "parts/best.pt")
    run("parts", "recipe.optimizer.lr=1e-12")  # as where a replay is not bit-equal: what comes is no better
    result = json.loads(Path("parts/result.json").read_text())
    kept = torch.load("parts/best.pt", weights_only=True)
    assert kept["step"] == 5 * result["best_epoch"]
    lines = {line["step"]: line for line in metrics("parts") if "val/acc" in line}
    assert result["val/loss"] == pytest.approx(lines[kept["step"]]["val/loss"], rel=1e-5)
    assert not any(torch.equal(kept["model"][name], later[name]) for name in later if later[name].is_floating_point())


def continuations(folder: str) -> list[dict[str, Any]]:
    return json.loads((Path(folder) / "result.json").read_text())["continued"]


def test_every_continuation_is_recorded_and_a_schedule_that_loses_its_shape_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cosine = "recipe.schedule.name=cosine"
    run("run", cosine)
    assert continuations("run") == []
    run("run", cosine, "recipe.epochs=3", "trainer.log_every=1")
    assert continuations("run") == [{
        "step": 10, "changed": {"trainer.log_every": [2, 1], "recipe.epochs": [2, 3]},
        "schedule": "planned for 2 epochs until step 10",
    }]  # fmt: skip
    assert "not what a straight run of 3 epochs would be" in caplog.text
    caplog.clear()
    run("constant", "recipe.schedule.name=constant")
    with monkeypatch.context() as patch:
        stop_at(patch, 12)
        with pytest.raises(Stopped):
            run("constant", "recipe.schedule.name=constant", "recipe.epochs=3")
    run("constant", "recipe.schedule.name=constant", "recipe.epochs=3")
    parts = continuations("constant")
    assert [(part["step"], part["changed"], part["schedule"]) for part in parts] == [
        (10, {"recipe.epochs": [2, 3]}, ""), (12, {}, "")
    ]  # fmt: skip
    assert "straight run" not in caplog.text
    mixed = ["recipe.schedule.name=constant", "recipe.mixing.probability=0.5", "recipe.mixing.end=0.5"]
    run("mixed", *mixed)
    run("mixed", *mixed, "recipe.epochs=3")  # a straight run of three mixes until the middle of the second
    assert [part["schedule"] for part in continuations("mixed")] == ["planned for 2 epochs until step 10"]
    assert "not what a straight run of 3 epochs would be" in caplog.text


def test_a_sweep_cannot_resume(command: Command) -> None:
    run("first", "max_steps=1")
    code, printed = command("-m", "resume=first", "data=digits")
    assert code == 2
    assert "resume= goes on with one run, -m starts many" in printed
    assert list(Path().rglob("result.json")) == [Path("first/result.json")]
    assert list(Path().rglob("metrics.jsonl")) == [Path("first/metrics.jsonl")]


def test_what_is_said_after_max_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run("run", "max_steps=2")
    run("run", "max_steps=2")
    assert "It ends at max_steps=2" in caplog.text
    assert "trains it further" not in caplog.text


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_another_memory_format_on_resume_changes_nothing_but_rounding(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused optimiser takes for granted that its state is laid out like the weights."""
    cnn = ["model=cnn", "data=digits", "data.max_images=64", "data.image_size=8", "recipe.batch_size=16",
           "recipe.epochs=2", "trainer=cpu", f"recipe.optimizer.name={optimizer}"]  # fmt: skip
    for layout in ("true", "false"):
        Path(layout).mkdir()
        with monkeypatch.context() as patch:
            stop_at(patch, 4)
            with pytest.raises(Stopped):
                train(composed(*cnn), Path(layout))
        train(composed(*cnn, f"trainer.channels_last={layout}"), Path(layout))
    ours, theirs = weights("true"), weights("false")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-3)


def test_a_run_without_a_scaler_can_go_on_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run("run", "recipe.epochs=1")
    saved = torch.load("run/last.pt", weights_only=True)
    assert saved["scaler"] == {}
    monkeypatch.setattr(state, "precision_of", lambda _: "fp16")  # as on a GPU
    assert build_state(composed(*TINY), saved, Path("run/last.pt")).scaler.get_scale() > 0
