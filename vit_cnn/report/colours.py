"""One colour for each network, everywhere in a report: its settings are shades of it."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

# From dark to light. The one in the middle is that of the network's first setting.
SHADES = {"ViT": ("#12305e", "#2a6fb0", "#62c6d8"), "CNN": ("#7c1d12", "#d1603d", "#f0b35c")}
OTHERS = [
    ("#14532d", "#3a9d5d", "#a3d977"), ("#4a2377", "#8e5fb5", "#d7a6e0"), ("#333333", "#777777", "#bbbbbb"),
    ("#5f4b00", "#b59410", "#e6d27a"), ("#7a1244", "#d1478c", "#f2a7cd"), ("#0b4f4f", "#1f9e9e", "#93dada"),
]  # fmt: skip


def colours_of(labels: list[str]) -> dict[str, str]:
    """A colour such as ``#2a6fb0`` for each label, which begins with the name of its network; the first is its own."""
    by_network: dict[str, list[str]] = {}
    for label in labels:
        by_network.setdefault(label.split()[0], []).append(label)
    others = [network for network in by_network if network not in SHADES]
    found = {}
    for network, settings in by_network.items():
        shades = SHADES.get(network) or OTHERS[others.index(network) % len(OTHERS)]
        shade = LinearSegmentedColormap.from_list(network, shades)
        others_of_it = [place for place in np.linspace(0, 1, len(settings) // 2 * 2 + 1) if place != 0.5]
        for label, place in zip(settings, [0.5, *others_of_it], strict=False):
            found[label] = to_hex(shade(place))
    return found
