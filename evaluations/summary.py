"""All experiments at quick size, and the table of their claims in evaluations/README.md.

    make evaluate DATA=data CHECKPOINTS=checkpoints
    python evaluations/summary.py --run --root data --checkpoints checkpoints
    python evaluations/summary.py

``--run`` runs the scripts one after the other, in processes of their own (about an hour on two cores; what lies in
--store isn't done again); one that fails is named and doesn't stop the others. Then, or without it at once, the table
is written anew from the claims in results/, those of full size first, and everything between its marks in the README is
replaced. Data sets that aren't in --root are left out; the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from _experiment import ABSENT

HERE = Path(__file__).parent
EXPERIMENTS = (
    "diagnosis",
    "class_exclusion",
    "weight_norms",
    "attack_strength",
    "temperature_pgd",
    "consistency",
    "mart_cifar10",
    "mart_semi",
    "class_policies",
    "robustbench_classwise",
    "speed",
)
SIZES = ("full", "quick")
BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiments if asked to, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", action="store_true", help="run the experiments first")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, help="run these only")
    parser.add_argument("--size", choices=("tiny", "quick", "full"), default="quick", help="of the runs")
    parser.add_argument("--root", help="folder of the data sets")
    parser.add_argument("--checkpoints", help="folder of the published networks' weights")
    parser.add_argument("--store", help="folder of what is done already")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of tables and figures")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="file the table is written into")
    arguments = parser.parse_args(argv)
    failed, left_out = run(arguments) if arguments.run else ([], [])
    text = arguments.readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"error: {arguments.readme} must hold the lines {BEGIN} and {END} once each: the table stands between")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    claims = read(arguments.results)
    table = as_markdown(claims, arguments.results, arguments.readme.parent)
    arguments.readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(
        f"{arguments.readme}: {len(claims)} claims, {claims['verdict'].value_counts().to_dict() if len(claims) else ''}"
    )
    if left_out:
        print(f"Left out, since their data or networks aren't at hand (see above): {', '.join(left_out)}")
    if failed:
        sys.exit(f"error: these experiments failed, see above: {', '.join(failed)}")


def run(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Run the experiments, and return the names of those that failed, and of those whose data isn't at hand."""
    failed, left_out = [], []
    given = {"size": arguments.size, "root": arguments.root, "checkpoints": arguments.checkpoints}
    given |= {"out": arguments.results, "store": arguments.store}
    for name in arguments.only:
        known = {key: value for key, value in given.items() if value is not None and (name, key) != ("speed", "store")}
        options = [part for key, value in known.items() for part in (f"--{key}", str(value))]
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        code = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options]).returncode
        if code:
            (left_out if code == ABSENT else failed).append(name)
        print(f"== {name}: {time.perf_counter() - began:.0f} s", flush=True)
    return failed, left_out


def read(results: Path) -> pd.DataFrame:
    """Return the claims of all experiments, in the order of the experiments, full size first."""
    parts = []
    for name in EXPERIMENTS:
        for size in SIZES:
            path = results / f"{name}_{size}_claims.csv"
            if path.is_file():
                table = pd.read_csv(path, dtype=str, keep_default_na=False)
                parts.append(table.assign(experiment=name, size=size))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["experiment", "size", "verdict"])


def as_markdown(claims: pd.DataFrame, results: Path, base: Path) -> str:
    """Return a table per experiment: claim, data, result, published number, verdict; and the command above it.

    Args:
        claims: As :func:`read` returns them.
        results: Where the other files lie.
        base: Folder of the file that it is for; links start there.
    """
    parts = []
    for (name, size), of in claims.groupby(["experiment", "size"], sort=False):
        first = of.iloc[0]
        files = sorted(p for p in results.glob(f"{name}_{size}*") if p.suffix == ".csv")
        links = ", ".join(f"[{p.name}]({Path(os.path.relpath(p, base)).as_posix()})" for p in files)
        lines = [f"### {name}.py, {size} size", ""]
        lines += [f"`{first['command']}`; {first['hardware']}; {first['versions']}. {links}", ""]
        lines += ["| claim | data | measured | result, 95 % interval | published | verdict |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for row in of.to_dict("records"):
            cells = [row["claim"], f"{row['data']}; {row['n']}", row["statistic"], row["result"], row["published"]]
            lines.append(
                "| " + " | ".join([*(str(c).replace("|", "\\|") for c in cells), f"**{row['verdict']}**"]) + " |"
            )
        figure = results / f"{name}_{size}.svg"
        if figure.is_file():
            lines += ["", f"![What {name}.py found]({Path(os.path.relpath(figure, base)).as_posix()})"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) if parts else "No experiment was run yet."


if __name__ == "__main__":
    main()
