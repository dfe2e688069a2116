"""The page itself: which controls there are, where they stand, and what each of them calls."""

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from vit_cnn.errors import Refused
from vit_cnn.play.changes import FAMILY_OF, Changes, ranges, squares
from vit_cnn.play.gallery import Shown
from vit_cnn.play.looks import LAST
from vit_cnn.play.replies import another, another_draw, drawn, next_of, uploaded, view
from vit_cnn.play.show import header_html
from vit_cnn.play.stage import Stage

PAD = '<canvas width="280" height="280" aria-label="draw here"></canvas><button type="button">Clear</button>'
PAD_SCRIPT = (Path(__file__).parent / "pad.js").read_text()
AS_IT_IS = Changes()


def page(stage: Stage) -> gr.Blocks:
    with gr.Blocks(title="vit_cnn: play", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(header_html(stage.contenders))
        shown = gr.State(stage.first())
        with gr.Row(elem_id="stage"):
            with gr.Column(scale=5, min_width=320, elem_id="seen"):
                answers = gr.HTML(elem_id="answers")
            with gr.Column(scale=3, min_width=320, elem_id="controls"):
                choose, adjust = gr.Column(), gr.Column()
        with adjust:
            way = way_to_look(stage)
            controls = changes(stage)
            with gr.Row():
                draw_again = gr.Button("Other squares and noise", size="sm")
                undo = gr.Button("Undo all changes", size="sm")
        with choose:
            image_choice(stage, [shown, way, *controls.values()], [shown, answers])

        seen = [shown, way, *controls.values()]
        for control in (way, *controls.values()):
            if not isinstance(control, gr.State):
                at_once(control.input, partial(view, stage), seen, answers)
        drawn_again = at_once(draw_again.click, another_draw, controls["draw"], controls["draw"])
        undone = at_once(undo.click, lambda: dataclasses.astuple(AS_IT_IS), None, list(controls.values()))
        for done in (drawn_again, undone):
            at_once(done.then, partial(view, stage), seen, answers)
        at_once(blocks.load, opening(stage), None, [*seen, answers])
    return blocks


def at_once(event: Callable[..., Any], call: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
    """Answer while a slider moves; of what comes meanwhile, the last counts."""
    return event(call, inputs, outputs, show_progress="hidden", trigger_mode="always_last", queue=False)


def way_to_look(stage: Stage) -> gr.Dropdown:
    choices = [(name, way) for way, name in stage.ways.items()] or [("", LAST)]
    return gr.Dropdown(choices, value=LAST, label="Where the ViT looks", visible=bool(stage.ways), elem_id="way")


def changes(stage: Stage) -> dict[str, Any]:
    """A control for each field of ``Changes``, by its name and in its order."""
    within = ranges(stage.side)

    def slider(name: str, label: str) -> gr.Slider:
        least, most = within[name]
        value = getattr(AS_IT_IS, name)
        return gr.Slider(least, most, value=value, step=1, label=label, elem_id=name.replace("_", "-"), buttons=[])

    with gr.Row():
        right, down = slider("right", "Move right, px"), slider("down", "Move down, px")
    sizes = [(str(size or "off"), size) for size in squares(stage.side)]
    shuffle = gr.Radio(sizes, value=AS_IT_IS.shuffle, label="Shuffle squares of, px", elem_id="shuffle")
    hide = slider("hide", "Hide a square of, px")
    with gr.Row():
        hide_right, hide_down = slider("hide_right", "Square, % from left"), slider("hide_down", "Square, % from top")
    corruptions = [("none", ""), *((name.replace("_", " "), name) for name in FAMILY_OF)]
    with gr.Row():
        corruption = gr.Dropdown(corruptions, value=AS_IT_IS.corruption, label="Corruption", elem_id="corruption")
        severity = slider("severity", "Severity")
    with gr.Row():
        has_colours = stage.contenders[0].network.num_channels == 3
        grey = gr.Checkbox(AS_IT_IS.grey, label="Grey", visible=has_colours, elem_id="grey")
        noise = slider("noise", "Noise, %")
    draw = gr.State(AS_IT_IS.draw)
    made = (right, down, shuffle, hide, hide_right, hide_down, corruption, severity, grey, noise, draw)
    return dict(zip((field.name for field in dataclasses.fields(Changes)), made, strict=True))


def image_choice(stage: Stage, seen: list[Any], outputs: list[Any]) -> None:
    with gr.Tabs():
        with gr.Tab("Data set"):
            if stage.gallery:
                from_data_set(stage, seen, outputs)
            else:
                gr.Markdown(f"The images of the data set cannot be shown: {stage.why_not}")
        with gr.Tab("Your image"):
            file = gr.File(label="Drop an image here", file_types=["image"], height=140, elem_id="upload")
            upload = partial(another, stage, partial(uploaded, stage))
            taken = at_once(file.upload, upload, [*seen, file], outputs)
            at_once(taken.then, lambda: None, None, file)  # so that the next one can be dropped
        with gr.Tab("Draw"):
            pad = gr.HTML(html_template=PAD, js_on_load=PAD_SCRIPT, elem_id="draw")
            light = gr.Checkbox(stage.is_dark, label="Show it light on dark, as the data set is", elem_id="light")
            for event in (pad.input, light.input):
                at_once(event, partial(another, stage, partial(drawn, stage)), [*seen, pad, light], outputs)


def from_data_set(stage: Stage, seen: list[Any], outputs: list[Any]) -> None:
    gallery = stage.gallery
    assert gallery is not None
    last = len(gallery.images) - 1
    picks: list[tuple[str, Callable[[Shown], Shown]]] = [
        ("← Back", lambda shown: gallery.show((shown.place or 0) - 1)),
        ("Next →", lambda shown: gallery.show(0 if shown.place is None else shown.place + 1)),
        ("Any", lambda shown: gallery.show(random.randint(0, last))),
    ]
    with gr.Row():
        for name, find in picks:
            at_once(gr.Button(name, size="sm", min_width=60).click, partial(another, stage, find), seen, outputs)
    with gr.Row():
        for name, wanted in stage.verdicts.items():
            count = len(gallery.matching(wanted))
            button = gr.Button(f"{name} ({count:,})", size="sm", min_width=90, interactive=count > 0)
            at_once(button.click, partial(another, stage, partial(next_of, gallery, wanted)), seen, outputs)
    if gallery.why_not:
        gr.Markdown(gallery.why_not)


def opening(stage: Stage) -> Callable[[gr.Request], list[Any]]:
    """What to do when the page is opened: show what its address asks for."""

    def opened(request: gr.Request) -> list[Any]:
        notice = ""
        try:
            shown, way, asked = stage.opened(dict(request.query_params))
        except Refused as error:
            shown, way, asked, notice = stage.first(), LAST, AS_IT_IS, str(error)
        return [shown, way, *dataclasses.astuple(asked), stage.view(shown, way, asked, notice)]

    return opened
