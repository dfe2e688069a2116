"""A third point: how far is a ViT with a convolutional patch embedding from the ViT to the CNN?

Runs of ``experiment=hybrid``. Where the ViT embeds a patch by one linear layer, the hybrid has two strided 3×3
convolutions before it; all else, and nearly the number of parameters, is the same.

Prediction: if what the ViT lacks is that neighbouring pixels are looked at together, the hybrid is clearly better
than the ViT. If locality in the lowest layers were all, it would reach the CNN; it will not, since its blocks above
are those of the ViT, and stay below.

Source: Xiao et al., "Early Convolutions Help Transformers See Better", 2021, https://arxiv.org/abs/2106.14881.
"""

from matplotlib.figure import Figure

from vit_cnn.errors import Refused
from vit_cnn.probes.findings import Findings, draw_rows
from vit_cnn.probes.intervals import Interval, difference, interval, only
from vit_cnn.probes.settings import check_trained_alike, rights
from vit_cnn.probes.subjects import Look, check_finished, once
from vit_cnn.report.colours import colours_of
from vit_cnn.report.groups import check_same_data
from vit_cnn.run.reading import Run

NETWORKS = ("ViT", "Hybrid", "CNN")


def probe(runs: list[Run], look: Look) -> Findings:
    check_finished(runs)
    check_same_data(runs)
    check_trained_alike(runs)
    groups: dict[str, list[Run]] = {}
    compared = [run for run in runs if run.model in NETWORKS]
    for run in once(compared, lambda run: (run.model, run.seed)).values():
        groups.setdefault(run.model, []).append(run)
    for network in NETWORKS:
        if network not in groups:
            raise Refused(f"{runs[0].folder} and the others: none is of the {network}; experiment=hybrid trains it")
    samples = {network: rights(groups[network], look) for network in NETWORKS}
    found = {network: interval(only(0), sample) for network, sample in samples.items()}
    rows = []
    for network, each in found.items():
        more = difference(only(0), samples[network], samples["ViT"])
        parameters = groups[network][0].figures["params"]
        about = {"network": network, "parameters": parameters, "seeds": len(samples[network])}
        rows.append(
            {**about, "images": samples[network][0].shape[1], **each.cells("accuracy"), **more.cells("above_vit")}
        )
    gain = difference(only(0), samples["Hybrid"], samples["ViT"])
    gap = difference(only(0), samples["CNN"], samples["ViT"])
    return Findings(rows, draw(found), verdict_of(found, gain, gap))


def verdict_of(found: dict[str, Interval], gain: Interval, gap: Interval) -> str:
    said = gain.choose("convolutions at the entrance help", "convolutions at the entrance hurt", "no clear difference")
    numbers = ", ".join(f"{network} {each.percent()}" for network, each in found.items())
    is_clear = gain.low > 0 and gap.low > 0
    way = f"; that is {100 * gain.value / gap.value:.0f} % of the way from the ViT to the CNN" if is_clear else ""
    return f"{numbers}: the hybrid is {gain.points()} from the ViT, {said}{way}."


def draw(found: dict[str, Interval]) -> Figure:
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    names = {"ViT": "linear embedding", "Hybrid": "convolutional embedding", "CNN": "convolutions throughout"}
    draw_rows(axes, {names[network]: {network: each} for network, each in found.items()}, colours_of(list(found)))
    axes.set_xlabel("accuracy")
    return figure
