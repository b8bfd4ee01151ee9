#!/usr/bin/env python3
"""Plots build/bench/results.jsonl: for each benchmark one SVG and one PNG beside it, own medians against their baselines.

Needs matplotlib (make bench-deps); without it says so and does nothing. Latest figures only; full runs before quick ones.
"""
import sys

import bench_results

try:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:
    print("bench-plot: no matplotlib, no plots (make bench-deps)")
    sys.exit(0)


def plot(group, records):
    units = list(dict.fromkeys(r["unit"] for r in records))
    rows = [[r for r in records if r["unit"] == unit] for unit in units]
    figure, axes = pyplot.subplots(len(units), 1, squeeze=False, figsize=(9, 1.2 * len(units) + 0.45 * len(records)),
                                   gridspec_kw={"height_ratios": [len(row) + 1 for row in rows]})
    for axis, unit, row in zip(axes[:, 0], units, rows):
        row = row[::-1]
        axis.barh([i + 0.2 for i in range(len(row))], [r["median"] for r in row], 0.38, color="#2a6f97", label="Cairn")
        others = [(i - 0.2, r["baseline"]["median"]) for i, r in enumerate(row) if "baseline" in r]
        axis.barh([i for i, _ in others], [v for _, v in others], 0.38, color="#bbbbbb", label="baseline")
        for i, r in enumerate(row):
            if "ratio" in r:
                axis.annotate(f" {r['ratio']:.3g}x", (max(r["median"], r["baseline"]["median"]), i), va="center", fontsize=8)
        axis.set_yticks(range(len(row)), [r["figure"] for r in row], fontsize=8)
        axis.set_xlabel(unit)
        axis.margins(x=0.12)
        values = [v for r in row for v in (r["median"], r.get("baseline", r)["median"]) if v > 0]
        if values and max(values) > 50 * min(values):
            axis.set_xscale("log")
    axes[0, 0].legend(fontsize=8)
    axes[0, 0].set_title(f"{group}: {records[0]['machine']}, {records[0]['cores']} cores", fontsize=9)
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(f"{bench_results.OUT}/{group}.{kind}", dpi=130)
    pyplot.close(figure)


def main():
    wanted = sys.argv[1:]
    for group, records in bench_results.by_group([r for r in bench_results.latest() if "shares" not in r]).items():
        if not wanted or group in wanted:
            plot(group, records)


main()
