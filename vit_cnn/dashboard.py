"""A Weights & Biases workspace that compares the runs of a project, built as code: ``python -m vit_cnn.dashboard``.

Needs the extra ``dashboard``. With a key it is saved online; without one its specification is written to a file.
"""

import argparse
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from vit_cnn import config
from vit_cnn.errors import Failed, Refused, exit_with_code, first_line
from vit_cnn.run.wandb_run import choose_mode

NAME = "ViT against CNN"


def workspace(*, entity: str, project: str) -> Any:
    """The comparison panels as a ``wandb_workspaces.workspaces.Workspace``, not yet saved."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    def curve(title: str, key: str) -> panels.LinePlot:
        return panels.LinePlot(title=title, x="epoch", y=[key], groupby="name", groupby_rangefunc="stddev")

    swept = [panels.Config(key) for key in ("model.patch_size", "model.dropout", "recipe.optimizer.lr")]
    outcome = [panels.SummaryMetric(key) for key in ("val/acc", "test/acc")]
    sections = {
        "Curves by network": [
            curve("validation accuracy", "val/acc"),
            curve("validation loss", "val/loss"),
            curve("training accuracy", "train/acc"),
            curve("training loss", "train/loss"),
            curve("images a second", "images_per_second"),
            curve("gradient norm", "grad_norm"),
        ],
        "Test": [
            panels.BarPlot(title="test accuracy", metrics=["test/acc"], groupby="name"),
            panels.BarPlot(title="test loss", metrics=["test/loss"], groupby="name"),
            panels.RunComparer(diff_only=True),
        ],
        "Errors": [
            panels.WeavePanelSummaryTable(table_name="val/confusion_table"),
            panels.WeavePanelSummaryTable(table_name="val/per_class_table"),
            panels.WeavePanelSummaryTable(table_name="val/mistakes"),
        ],
        "Inside": [
            panels.MediaBrowser(title=key, media_keys=[key], num_columns=1)
            for key in ("attention", "filters", "inputs")
        ],
        "Sweep": [
            panels.ScatterPlot(  # a heat map: a dot for each cell, coloured by accuracy
                title="validation accuracy over patch size and dropout",
                x=panels.Config("model.patch_size"),
                y=panels.Config("model.dropout"),
                z=panels.SummaryMetric("val/acc"),
            ),
            panels.ParallelCoordinatesPlot(
                columns=[panels.ParallelCoordinatesPlotColumn(metric=metric) for metric in (*swept, *outcome)]
            ),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=name, panels=drawn, is_open=True) for name, drawn in sections.items()],
    )


def main() -> None:
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        settings = compose("config").wandb
    parser = argparse.ArgumentParser(
        prog="vit-cnn dashboard",
        epilog="example: vit-cnn dashboard --entity my-team",
        description="W&B panels that compare the runs",
    )
    parser.add_argument(
        "--entity", default=settings.entity or os.environ.get("WANDB_ENTITY", ""), help="W&B user or team"
    )
    parser.add_argument("--project", default=settings.project, help=f"W&B project (default: {settings.project})")
    parser.add_argument(
        "--out", type=Path, default=Path("dashboard.json"), help="file for the specification, without key"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise Refused('the extra "dashboard" is not installed: pip install -e ".[dashboard]"')
    built = workspace(entity=arguments.entity or "entity", project=arguments.project)
    if choose_mode("auto") == "online":
        if not arguments.entity:
            raise Refused("--entity is missing: the W&B user or team that owns the project")
        try:
            print(f"Dashboard: {built.save().url}")
        except Exception as error:  # W&B raises its own, socket and HTTP errors
            raise Failed(f"the dashboard cannot be saved: {first_line(error)}") from error
        return
    specification = built._to_model().model_dump(
        mode="json", by_alias=True
    )  # the library has no public way to write one
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(specification, indent=2) + "\n")
    print(f"Not online (no W&B key, or WANDB_MODE says so): the specification is in {arguments.out}.")
    print("To publish it: wandb login, wandb sync --sync-all, then the same command with --entity <user or team>")


if __name__ == "__main__":
    exit_with_code(main)
