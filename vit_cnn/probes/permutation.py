"""Does it matter where a pixel is? Runs of ``experiment=permutation``, whose images are permuted, always the same way.

patches      the patches change places, and so do the values inside a patch, in all patches alike
within       the values change places inside each patch, in each patch otherwise
everything   all values of the image change places

Prediction, a theorem for the first: the ViT's patch embedding is linear with independent, equally distributed
weights at the start, its positions are learned from an equally distributed start, and the optimiser treats every
weight alike. So a permutation of the patches, and one inside all of them, only gives these numbers other names: with
the weights at the start permuted too, training is the same up to rounding, and over seeds the accuracy is the same.
It holds since the permutation comes after the augmentation; a convolutional embedding or fixed positions would
break it. The CNN loses much, 10 points or more, since what was nearby is no longer. The other two permutations take
from the ViT that all patches are embedded alike, and hurt both.

Source for CNNs on scrambled pixels: https://arxiv.org/abs/1907.10935.
"""

from matplotlib.figure import Figure

from vit_cnn.errors import Refused
from vit_cnn.probes.findings import Findings, draw_rows
from vit_cnn.probes.intervals import FEWEST_SEEDS, Interval, Sample, difference, interval, only
from vit_cnn.probes.settings import NETWORKS, check_trained_alike, inner_network, of_both, permutation_of, rights
from vit_cnn.probes.subjects import Look, check_finished, once
from vit_cnn.report.colours import colours_of
from vit_cnn.report.groups import check_same_data
from vit_cnn.run.reading import Run

KINDS = {
    "nothing": "images as they are",
    "patches": "patches permuted",
    "within": "each patch within itself",
    "everything": "all values",
}
MUCH = 0.10  # of accuracy: so much at least the CNN is predicted to lose
CLOSE = 0.01  # of accuracy: an interval of the difference within this far of 0 confirms that there is none


def probe(runs: list[Run], look: Look) -> Findings:
    check_finished(runs)
    runs = of_both(runs, inner_network)
    check_same_data(runs)
    check_trained_alike(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for (network, kind, _), run in once(runs, lambda run: (inner_network(run), permutation_of(run), run.seed)).items():
        groups.setdefault((network, kind), []).append(run)
    for network in NETWORKS:
        for kind in ("nothing", "patches"):
            if (network, kind) not in groups:
                raise Refused(f"{runs[0].folder} and the others: none is of the {network} with permute={kind}")
    samples = {names: rights(group, look) for names, group in groups.items()}
    rows, change = [], {}
    shown: dict[str, dict[str, Interval]] = {}
    for (network, kind), sample in sorted(samples.items(), key=lambda item: list(KINDS).index(item[0][1])):
        found = interval(only(0), sample)
        change[network, kind] = difference(only(0), sample, samples[network, "nothing"])
        shown.setdefault(KINDS[kind], {})[network] = found
        about = {"network": network, "permuted": kind, "seeds": len(sample), "images": sample[0].shape[1]}
        rows.append({**about, **found.cells("accuracy"), **change[network, kind].cells("change")})
    return Findings(rows, draw(shown), verdict_of(change, samples))


def verdict_of(change: dict[tuple[str, str], Interval], samples: dict[tuple[str, str], Sample]) -> str:
    vit, cnn = change["ViT", "patches"], change["CNN", "patches"]
    wide = vit.low < -CLOSE or vit.high > CLOSE
    seeds = min(len(sample) for (_, kind), sample in samples.items() if kind in ("nothing", "patches"))
    said = vit.choose(
        "a contradiction", "a contradiction", "no contradiction, but too wide to confirm" if wide else "as predicted"
    )
    if seeds < FEWEST_SEEDS:  # the theorem speaks of the mean over seeds, and the images say nothing of their spread
        said = "too few seeds to tell"
    against = "as predicted" if cnn.high <= -MUCH else "against the prediction" if cnn.low > -MUCH else "unclear"
    text = f"Permuting patches changes the ViT's accuracy by {vit.points()}, where the theorem says 0 ({said}), "
    text += f"and the CNN's by {cnn.points()} ({against})"
    for kind in ("within", "everything"):
        found = [
            f"{network} {change[network, kind].points()}, seeds: {len(samples[network, kind])}"
            for network in NETWORKS
            if (network, kind) in change
        ]
        text += f"; permuting {KINDS[kind]}: {'; '.join(found)}" if found else ""
    return f"{text}. Seeds: {seeds}."


def draw(rows: dict[str, dict[str, Interval]]) -> Figure:
    figure = Figure(figsize=(7.5, 1.4 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    networks = list(dict.fromkeys(network for found in rows.values() for network in found))
    draw_rows(axes, rows, colours_of(networks))
    axes.set_xlabel("accuracy")
    axes.set_title("Does it matter where a pixel is?", fontsize=11)
    return figure
