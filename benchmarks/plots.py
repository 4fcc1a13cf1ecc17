"""Plots of the report, as SVG and PNG."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES: Final = {
    "p2pd": "p2pd",
    "tree": "tree of fan-out 2",
    "kraken": "Kraken's policy",
    "pull_through": "one pull-through cache",
    "registry": "everyone to the registry",
}
COLOURS: Final = {
    "p2pd": "#0072b2",
    "tree": "#009e73",
    "kraken": "#e69f00",
    "pull_through": "#999999",
    "registry": "#d55e00",
}
"""The palette of Okabe and Ito, which the colour-blind can tell apart."""

Run = Mapping[str, Any]


def draw(runs: Sequence[Run], directory: Path) -> None:
    """All plots whose runs were made. Processes that only simulate do not load what draws them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # the backend is chosen before, because there is no screen

    mpl.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "p2pd"})
    for name, plot in PLOTS.items():
        figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
        if plot(axes, runs):
            _save(figure, directory / name)
        plt.close(figure)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None}, dpi=130)
    figure.savefig(file.with_suffix(".png"), dpi=130)


def _plain(runs: Sequence[Run], **wanted: object) -> list[Run]:
    """The runs of flash crowds in one site, with uplinks as the only limit."""
    wanted = {"scenario": "flash-crowd", "sites": 1, "down": 10, "pieces": 256, **wanted}
    return sorted((run for run in runs if all(run[key] == value for key, value in wanted.items())), key=_nodes)


def _nodes(run: Run) -> int:
    return int(run["nodes"])


def time_by_nodes(axes: Axes, runs: Sequence[Run]) -> bool:
    """The last host's time by the number of hosts that pull at once."""
    ours = _plain(runs, policy="p2pd")
    if not ours:
        return False
    for policy, name in NAMES.items():
        points = _plain(runs, policy=policy)
        if points and policy != "pull_through":  # one cache takes as long as the registry: same link
            width = 2.5 if policy == "p2pd" else 1.5
            label = "registry, or one cache" if policy == "registry" else name
            axes.plot(*_xy(points, "whole_s"), marker="o", color=COLOURS[policy], label=label, linewidth=width)
    axes.plot(*_xy(ours, "limit_s"), color="black", linestyle="--", label="physical limit")
    axes.set(xscale="log", yscale="log", xlabel="hosts that pull at once", ylabel="time until the last has it (s)")
    axes.set_title("1 GiB, uplinks and origin of 100 Mbit/s, simulated", loc="left", fontsize=11)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    return True


def _xy(points: Sequence[Run], key: str) -> tuple[list[int], list[float]]:
    return [_nodes(run) for run in points], [float(run[key]) for run in points]


def progress(axes: Axes, runs: Sequence[Run]) -> bool:
    """The progress of each host over time."""
    found = [run for run in runs if run["curves"]]
    if not found:
        return False
    run = found[0]
    curves = list(run["curves"].values())
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), color=COLOURS["p2pd"], alpha=0.04, linewidth=0.8, rasterized=True)
    times = [point[0] for point in max(curves, key=len)]
    middle = [statistics.median(curve[at][1] for curve in curves if at < len(curve)) for at in range(len(times))]
    axes.plot(times, middle, color="black", linewidth=1.5, label="median host")
    axes.axvline(run["limit_s"], color="black", linestyle="--", label="physical limit for the last one")
    axes.set(xlabel="time (s)", ylabel="part of the image that a host has", ylim=(0, 1.02), xlim=(0, None))
    title = f"{run['nodes']} hosts pull 1 GiB over uplinks of 100 Mbit/s at once, simulated"
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False, loc="upper left")
    return True


def origin_copies(axes: Axes, runs: Sequence[Run]) -> bool:
    """The copies of the image that leave the registry, by policy."""
    points = [run for policy in NAMES for run in _plain(runs, policy=policy, nodes=1_000)]
    if not points:
        return False
    names = [NAMES[run["policy"]] for run in points]
    copies = [run["origin_copies"] for run in points]
    bars = axes.barh(names, copies, color=[COLOURS[run["policy"]] for run in points])
    axes.bar_label(bars, [f"{value:.3g}" for value in copies], padding=4)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="copies of the image that leave the registry", xlim=(0.8, 4 * max(copies)))
    axes.set_title("1,000 hosts", loc="left", fontsize=11)
    return True


def efficiency_by_scenario(axes: Axes, runs: Sequence[Run]) -> bool:
    """The last host's distance from the limit, by scenario."""
    shape = next(((run["nodes"], run["pieces"]) for run in runs if run["scenario"] != "flash-crowd"), None)
    points = [run for run in runs if (run["nodes"], run["pieces"]) == shape and run["policy"] == "p2pd"]
    if not points:
        return False
    bars = axes.barh([run["scenario"] for run in points], [run["efficiency_last"] for run in points], color="#0072b2")
    axes.bar_label(bars, [f"{run['efficiency_last']:.2f}" for run in points], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="efficiency: physical limit over the time of the last host", xlim=(0, 1.1))
    title = f"{points[0]['nodes']} hosts, {points[0]['pieces']} pieces, uplinks of 100 Mbit/s"
    axes.set_title(title, loc="left", fontsize=11)
    return True


PLOTS: Final = {
    "time-by-nodes": time_by_nodes,
    "progress": progress,
    "origin-copies": origin_copies,
    "efficiency-by-scenario": efficiency_by_scenario,
}
"""The plots by file name."""
