"""Speed of attacks, training, audits and imports, and memory and disk use, compared with other implementations.

    python evaluations/speed/speed.py --root data --checkpoints FOLDER
    python evaluations/speed/speed.py --size long --root data --checkpoints FOLDER --torchattacks FOLDER
    python evaluations/speed/speed.py --size full --root data --model CHECKPOINT

Sizes: quick measures everything within ten minutes on 2 cores; long, also for 2 cores, uses more images; full is for a
CUDA GPU (larger batches, WideResNet-28-10; audits of 10,000 images on the ResNet-18 given as --model). ``--only``
selects tables: attacks, training (speed of a step), policies (what class policies add), audit, scaling (an audit by one
process and by several), members (of AutoAttack, in micro-batches), memory (of an audit of an image folder), disk (of
its outcomes), import.

Each case runs in its own process, in several rounds: a warm-up call, then whole calls of ``generate`` or whole epochs
of training; the tables contain medians. Intervals of the claims are ranges: from the fastest call of others and the
slowest of ours to the opposite. Speeds that were measured once have no interval and no verdict. Sizes, and the
policies' shares of an epoch, are single numbers.

--root holds cifar10_test.npz, with arrays ``x`` (uint8 images) and ``y``; without it and --checkpoints, tables that
need them are left out. torchattacks' wheel contains a package ``robustbench`` that overwrites the real one, so install
it separately: ``pip install --no-deps --target FOLDER torchattacks``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import attack_speed
import audit_size
import audit_speed
import import_time
import member_speed
import policy_step
from lib.experiment import RESULTS, Claim, timed, whole, write

from art_classwise.report.figures import ROBUST

SIZES = ("tiny", "quick", "long", "full")
MEASURES: dict[str, ModuleType] = {
    table: module
    for module in (attack_speed, policy_step, audit_speed, member_speed, audit_size, import_time)
    for table in module.TABLES
}
"""By table the module that measures it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write them."""
    arguments = _arguments(argv)
    test_set = Path(arguments.root or ".") / "cifar10_test.npz"
    arguments.cifar10 = str(test_set) if test_set.is_file() else None
    tables: dict[str, pd.DataFrame] = {}
    for only in arguments.only or MEASURES:
        module = MEASURES[only]
        lacking = module.lacks(arguments) if hasattr(module, "lacks") else ""
        if not arguments.only and lacking:
            print(f"left out: {only}, which needs {lacking}", file=sys.stderr, flush=True)
            continue
        with timed(only):
            tables[only] = module.measure(arguments, only)
        print(tables[only].to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""), flush=True)
    claims = [claim for only, table in tables.items() for claim in claims_of(only, table)]
    del arguments.cifar10  # folders are no part of the command that the tables tell
    arguments.model = arguments.model and Path(arguments.model).name
    arguments.torchattacks = arguments.torchattacks and "FOLDER"
    write(__file__, arguments, tables, claims, draw(claims) if claims else None)


def claims_of(only: str, table: pd.DataFrame) -> list[Claim]:
    """Return what was aimed at, beside what a table says of it. Larger speaks for the claim: times faster, or below."""
    if only == "attacks":
        asked = [
            ("PGD is 3.4 times as fast as ART's", "pgd-10", "ours auto", "ART", 3.4),
            ("PGD is 2.2 times as fast as torchattacks'", "pgd-10", "ours auto", "torchattacks", 2.2),
            ("PGD in float32 is 1.8 times as fast as ART's", "pgd-10", "ours fp32", "ART", 1.8),
            ("PGD for verdicts is 5 times as fast as ART's", "verdict pgd-20", "ours auto early stop", "ART", 5.0),
        ]
        return _faster(table, "benchmark", "method", asked)
    if only == "training":
        asked = [
            (f"A step of MART is {aim:g} times as fast as {theirs}", benchmark, "ours MART", other, aim)
            for benchmark in table["benchmark"].unique()
            for other, theirs, aim in (
                ("ART TRADES", "one of ART's TRADES", 3.0),
                ("published MART", "the published one", 4.0 if benchmark.endswith(("128", "512")) else 2.3),
            )
        ]
        return _faster(table, "benchmark", "method", asked)
    if only == "audit":
        rows = table[table["attack"] == audit_speed.ALL]
        large = audit_speed.AUTOATTACK in set(rows["way"])
        aims = [(2.0, audit_speed.AUTOATTACK)] if large else [(3.0, audit_speed.THEIRS)]
        asked = [
            (f"An audit is {aim:g} times as fast as {other}", network, audit_speed.WORST_CASE, other, aim)
            for network in rows["network"].unique()
            for aim, other in aims
        ]
        return _faster(rows, "network", "way", asked)
    if only == "scaling":
        asked = [
            (f"{n} processes are {0.9 * n:.2g} times as fast as one", network, n, 1, 0.9 * n)
            for network, n in table[["network", "processes"]].drop_duplicates().itertuples(index=False)
            if n > 1
        ]
        return _faster(table, "network", "processes", asked)
    if only == "members":
        ours, other = member_speed.OURS, member_speed.RECOMPUTED
        asked = [
            (
                f"{member.upper()} in micro-batches is 1.2 times as fast as where passes are recomputed",
                member,
                ours,
                other,
                1.2,
            )
            for member in member_speed.MEMBERS
        ]
        return _faster(table, "member", "way", asked)
    if only == "import":
        like = "whole processes"
        beside = table.assign(all=like)
        asked = [
            ("The package is imported in less time than torch", like, "import art_classwise", "import torch", 1.0),
            (
                "The command line's help comes before torch is imported",
                like,
                "art-classwise --help",
                "import torch",
                1.0,
            ),
        ]
        return _faster(beside, "all", "process", asked)
    if only == "policies":
        limits = {policy: 10.0 if policy == "FAAL" else 3.0 for policy in table["policy"]}
        return [
            _below(f"{policy} takes less than {limits[policy]:g} % of an epoch", network, own, limits[policy], "%")
            for network, policy, own in table[["network", "policy", "own %"]].itertuples(index=False)
        ]
    row = table.iloc[0]
    if only == "memory":
        of = f"{int(row['n']):,} images of {row['image']}"
        return [
            _below("An audit of ImageNet's images takes less than 1.5 GB", of, row["above idle MiB"], 1430.5, "MiB")
        ]
    of = f"{int(row['rows']):,} outcomes"
    limit = 300 * row["rows"] / 12e6
    return [_below("12 million outcomes take less than 300 MB", of, row["disk MB"], limit, "MB")]


def _faster(
    table: pd.DataFrame, within: str, by: str, asked: Sequence[tuple[str, str, object, object, float]]
) -> list[Claim]:
    """Return claims of how often as fast a row is as another, of those that are there.

    Args:
        table: With ``seconds``, ``fastest`` and ``slowest``.
        within: Column of what is compared only with its like.
        by: Column that tells the two apart.
        asked: Claim, value of ``within``, ours, others', and the aim.
    """
    made = []
    for claim, like, ours, other, aim in asked:
        rows = table[table[within] == like]
        for network, found in rows.groupby("network" if "network" in rows else within, sort=False):
            a, b = found[found[by] == ours], found[found[by] == other]
            if a.empty or b.empty:
                continue
            us, them = a.iloc[0], b.iloc[0]
            once = us["fastest"] == us["slowest"] or them["fastest"] == them["slowest"]
            low, high = them["fastest"] / us["slowest"], them["slowest"] / us["fastest"]
            made.append(
                Claim(
                    claim,
                    str(network),
                    f"{like}: seconds of {other} / seconds of {ours}",
                    them["seconds"] / us["seconds"],
                    *((np.nan, np.nan) if once else (low, high)),
                    n=f"medians of {us.get('calls', us.get('rounds'))} runs each",
                    least=aim,
                    null=1.0,
                    unit="times",
                )
            )
    return made


def _below(claim: str, data: str, value: float, limit: float, unit: str) -> Claim:
    """Return a claim that a measured size lies below a limit."""
    times = limit / value
    told = f"{limit:.4g} {unit} / {value:.4g} {unit}"
    return Claim(claim, data, told, times, times, times, n="one measurement", least=1.0, null=0.0, unit="times")


def draw(claims: Sequence[Claim]) -> plt.Figure:
    """Draw each claim's number beside what was aimed at, on one scale: 1 is the aim."""
    figure, ax = plt.subplots(figsize=(9, 1.2 + 0.32 * len(claims)), layout="constrained")
    places = np.arange(len(claims))
    value, low, high, aim = np.array([[c.value, c.low, c.high, c.least] for c in claims], dtype=float).T
    reach = np.nan_to_num([value - low, high - value]).clip(0) / aim
    ax.barh(places, value / aim, 0.7, xerr=reach, color=ROBUST, error_kw={"lw": 1, "ecolor": "0.25"})
    ax.axvline(1, color="0.25", lw=1, ls=(0, (4, 3)))
    ax.set_yticks(places, [f"{c.claim} ({c.data})" for c in claims])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="of what was aimed at (dashed)")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, default="quick", help="tiny: to try; quick, long: 2 cores; full: a GPU"
    )
    parser.add_argument(
        "--only", nargs="+", choices=MEASURES, help="what to measure; default: everything that the given files allow"
    )
    parser.add_argument("--root", help="folder of the data sets, with cifar10_test.npz")
    parser.add_argument("--checkpoints", help="folder of the published networks' weights")
    parser.add_argument("--torchattacks", help="folder in which torchattacks is installed")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile (needs a C++ compiler)")
    parser.add_argument("--model", help="model of audits at --size full: a checkpoint of `art-classwise train`")
    parser.add_argument("--processes", type=whole, default=2, help="number of processes for scaling")
    parser.add_argument("--rounds", type=whole, default=1, help="number of measurements of each case")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed", help="folder of tables and figures")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
