"""All experiments at quick size, and the tables of their claims.

    make evaluate DATA=data CHECKPOINTS=checkpoints
    python evaluations/summary.py --run --root data --checkpoints checkpoints
    python evaluations/summary.py

``--run`` runs the scripts one after the other, each in its own process (about an hour on two cores; finished work in
--store is not repeated). If one fails, the others still run and the failure is reported at the end. Then, or at once
without ``--run``, each experiment's table of claims is written into results/EXPERIMENT/README.md, and the overview into
README.md, with the verdicts by data set: only the text between the marks is replaced. Experiments whose data is not in
--root are left out; the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from lib.experiment import ABSENT, dataset_of

from art_classwise.datasets import DATASETS

HERE = Path(__file__).parent
SIZES = ("full", "medium", "quick")
BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
OVERVIEW, OVERVIEW_END = "<!-- experiments -->", "<!-- end of experiments -->"
BY_DATA, BY_DATA_END = "<!-- claims by data set -->", "<!-- end of claims by data set -->"
VERDICTS = ("seen", "not seen", "unclear", "smoke test")


@dataclass(frozen=True)
class Experiment:
    """A script and what it asks.

    Attributes:
        name: Of the script, of its folder in results/, and of its files there.
        folder: Where the script lies.
        question: What it answers.
        data: The data, if its claims don't say.
        n: The sample size, likewise.
        result: The result in a few words, if not the verdicts.
        command: The command, if not the one that its claims name.
        runs: Whether ``--run`` runs it.
    """

    name: str
    folder: str
    question: str
    data: str = ""
    n: str = ""
    result: str = ""
    command: str = ""
    runs: bool = True

    @property
    def script(self) -> Path:
        """The script's file, from the folder of this one."""
        return Path(self.folder) / f"{self.name}.py"


EXPERIMENTS = (
    Experiment("diagnosis", "claims", "Does robust accuracy differ more between classes than clean accuracy?"),
    Experiment("class_exclusion", "claims", "Do attacked examples become robust once the confounding class is gone?"),
    Experiment("weight_norms", "claims", "Are classes with larger weight norms more robust?"),
    Experiment("attack_strength", "claims", "Do stronger attacks mostly break the weakest classes?"),
    Experiment("temperature_pgd", "claims", "Does Temperature-PGD break more examples than PGD?"),
    Experiment("consistency", "claims", "Are the same classes weak under all attacks and after all defences?"),
    Experiment("imagenet", "claims", "What of the claims holds on ImageNet, by groups of its classes?"),
    Experiment("mart_cifar10", "claims", "Is MART more robust than AT and TRADES, and which part of it helps?"),
    Experiment("mart_semi", "claims", "Do unlabelled images make MART more robust?"),
    Experiment("class_policies", "claims", "Do class policies help the worst class?"),
    Experiment(
        *(
            "published_networks",
            "zoo",
            "What do twenty published networks show, and does the worst class rank them anew?",
        ),
        data="published networks for mnist, cifar10, cifar100, stl10 and svhn",
        runs=False,  # it takes hours
    ),
    Experiment(
        *("speed", "speed", "How fast are attacks, training and audits? How much memory and disk do they take?"),
        *("random images, cifar10", "64 to 50,000 images", "8 of 13 aims met: PGD 3.3 x as fast as ART's"),
        command="python evaluations/speed/speed.py --root data --checkpoints FOLDER",
    ),
    Experiment(
        *("worst_class", "claims", "Does the interval of the worst class hold?", "simulated, 11 settings"),
        *("2,000 data sets each", "covers at least 97 % (asked: 95 %)", "python evaluations/claims/worst_class.py"),
        runs=False,
    ),
    Experiment(
        *("coverage", "claims", "Do the intervals cover, and do the tests keep their level?", "simulated, 84 settings"),
        *(
            "250 data sets each",
            "93 % or more, but for gap and Gini; p at most 6 %",
            "python evaluations/claims/coverage.py",
        ),
        runs=False,
    ),
    Experiment(
        *("minimum_norm", "claims", "Does FMN come as near as bisection of PGD, and what does it cost?"),
        *(
            "cifar10, mnist, six published networks",
            "58 to 199 images each",
            "nearer in the median, by 1 to 58 %; 0.9 to 1.1 x PGD's time",
        ),
        "python evaluations/claims/minimum_norm.py --root data --checkpoints FOLDER --examples 200",
        runs=False,
    ),
    Experiment(
        *("target_order", "claims", "Does MALT's order put the right target first?"),
        *(
            "cifar10, mnist, six published networks",
            "832 broken images",
            "the first target breaks 99.6 %, by logits 93.9 %",
        ),
        "python evaluations/claims/target_order.py --root data --checkpoints FOLDER --examples 1000",
        runs=False,
    ),
    Experiment(
        *("fast_ladder", "speed", "What does the ladder fast miss of what AutoAttack breaks, and what does it cost?"),
        *(
            "mnist, cifar10, cifar100, ten published networks",
            "888 and 233 broken images",
            "2 % and 0.4 % missed, at 6 % of the time",
        ),
        "python evaluations/speed/fast_ladder.py --root data --checkpoints FOLDER",
        runs=False,
    ),
    Experiment(
        *("zoo_architectures", "zoo", "Do RobustBench's networks load and run on today's packages?", "random weights"),
        *("114 networks", "114 load, 109 are audited within 8 GB", "python evaluations/zoo/zoo_architectures.py"),
        runs=False,
    ),
)
RUN = tuple(experiment.name for experiment in EXPERIMENTS if experiment.runs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiments if asked to, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", action="store_true", help="run the experiments first")
    parser.add_argument("--only", nargs="+", choices=RUN, default=RUN, help="run only these")
    parser.add_argument("--size", choices=("tiny", "quick", "medium", "full"), default="quick", help="size of the runs")
    parser.add_argument("--root", help="folder of the data sets")
    parser.add_argument("--checkpoints", help="folder of the published networks' weights")
    parser.add_argument("--store", help="folder of finished work")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of tables and figures")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="page of the overview")
    arguments = parser.parse_args(argv)
    failed, left_out = run(arguments) if arguments.run else ([], [])
    rows, all_claims = [], []
    for experiment in EXPERIMENTS:
        folder = arguments.results / experiment.name
        claims = read(experiment, folder)
        rows.append(overview_row(experiment, claims, folder, arguments.readme.parent))
        all_claims.append(claims.assign(page=_link(folder / "README.md", arguments.readme.parent)))
        if len(claims):
            page = folder / "README.md"
            if not page.exists():
                page.write_text(f"# {experiment.question}\n\n{BEGIN}\n{END}\n", encoding="utf-8")
            replace(page, BEGIN, END, as_markdown(experiment, claims, folder))
            print(f"{page}: {len(claims)} claims, {counts(claims)}")
    head = ["| experiment | question | data | n | result | command |", "| --- | --- | --- | --- | --- | --- |"]
    replace(arguments.readme, OVERVIEW, OVERVIEW_END, "\n".join([*head, *rows]))
    replace(arguments.readme, BY_DATA, BY_DATA_END, by_dataset(pd.concat(all_claims)))
    if left_out:
        print(f"Left out because their data or networks are missing (see above): {', '.join(left_out)}")
    if failed:
        sys.exit(f"error: these experiments failed, see above: {', '.join(failed)}")


def run(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Run the experiments, and return the names of those that failed, and of those whose data is missing."""
    failed, left_out = [], []
    given = {"size": arguments.size, "root": arguments.root, "checkpoints": arguments.checkpoints}
    given |= {"store": arguments.store}
    for experiment in EXPERIMENTS:
        name = experiment.name
        if name not in arguments.only or name not in RUN:
            continue
        known = {key: value for key, value in given.items() if value is not None and (name, key) != ("speed", "store")}
        known["out"] = arguments.results / name
        options = [part for key, value in known.items() for part in (f"--{key}", str(value))]
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        code = subprocess.run([sys.executable, str(HERE / experiment.script), *options]).returncode
        if code:
            (left_out if code == ABSENT else failed).append(name)
        print(f"== {name}: {time.perf_counter() - began:.0f} s", flush=True)
    return failed, left_out


def read(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Return the claims of an experiment, full size first; an empty table if there are none.

    Args:
        experiment: Which.
        folder: Where its results lie.
    """
    parts = []
    for size in SIZES:
        path = folder / f"{experiment.name}_{size}_claims.csv"
        if path.is_file():
            parts.append(pd.read_csv(path, dtype=str, keep_default_na=False).assign(size=size))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["size", "verdict"])


def replace(page: Path, begin: str, end: str, table: str) -> None:
    """Replace what stands between two marks of a page."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"error: {page} must hold the lines {begin} and {end} once each: the table is written between them")
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def counts(claims: pd.DataFrame) -> str:
    """Return how often each verdict was reached, as ``5 seen, 1 not seen``."""
    found = claims["verdict"].value_counts()
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if verdict in found)


def overview_row(experiment: Experiment, claims: pd.DataFrame, folder: Path, base: Path) -> str:
    """Return an experiment's row of the overview.

    Args:
        experiment: Which.
        claims: As :func:`read` returns them.
        folder: Where its results lie.
        base: Folder of the page that the row is for; links start there.
    """
    data, n, result, command = experiment.data, experiment.n, experiment.result, experiment.command
    if len(claims):
        sizes = sorted({int(n.replace(",", "")) for text in claims["n"] for n in re.findall(r"n = ([\d,]*\d)", text)})
        data = data or ", ".join(dict.fromkeys(re.split(r",|;| and ", text)[0] for text in claims["data"]))
        n = n or " to ".join(f"{size:,}" for size in dict.fromkeys(sizes[:1] + sizes[-1:]))
        result, command = result or counts(claims), command or claims["command"].iloc[0]
    link = _link(folder / "README.md", base) if folder.is_dir() else _link(HERE / experiment.script, base)
    cells = [f"[{experiment.name}]({link})", experiment.question, data, n, result or "not run", f"`{command}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells if cell != "``") + " |"


def by_dataset(claims: pd.DataFrame) -> str:
    """Return a table of the papers' numbered claims: how often each verdict was reached on each data set.

    Args:
        claims: As :func:`read` returns them, of all experiments, with ``page``, a link to each.
    """
    numbered = claims[claims["claim"].str.match(r"[0-7]b?\. ", na=False)] if len(claims) else claims
    names = [name for name in DATASETS if name != "digits"] + ["digits"]  # the papers' six first
    head = ["| claim | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    rows = []
    for claim in sorted(set(numbered["claim"])) if len(numbered) else ():
        of = numbered[numbered["claim"] == claim]
        places = of["data"].map(dataset_of)
        cells = [_cell(of[places == name]) for name in names]
        if any(cells):
            rows.append("| " + " | ".join([claim, *(cell or "–" for cell in cells)]) + " |")
    return "\n".join([*head, *rows])


def _cell(claims: pd.DataFrame) -> str:
    """Return how often each verdict was reached, by size, with links to the pages."""
    sizes = []
    for size, of in claims.groupby("size", sort=False):
        pages = dict.fromkeys(of["page"])
        told = ", ".join(f"[{counts(of[of['page'] == page])}]({page})" for page in pages)
        sizes.append(told if size == "quick" else f"{size}: {told}")
    return "; ".join(sizes)


def as_markdown(experiment: Experiment, claims: pd.DataFrame, folder: Path) -> str:
    """Return a table per size: claim, data, result, published number, verdict; and the command above it.

    Args:
        experiment: Which.
        claims: As :func:`read` returns them.
        folder: Where its results lie, and the page that the table is for.
    """
    parts, name = [], experiment.name
    for size, of in claims.groupby("size", sort=False):
        first = of.iloc[0]
        files = sorted(p for p in folder.glob(f"{name}_{size}*") if p.suffix == ".csv")
        links = ", ".join(f"[{p.name}]({p.name})" for p in files)
        lines = [f"### {str(size).capitalize()} size", ""]
        told = of.drop_duplicates(["command", "hardware", "versions"])
        if len(told) == 1:
            lines += [f"`{first['command']}`; {first['hardware']}; {first['versions']}. {links}", ""]
        else:  # measured at several times: --keep
            lines += [
                f"- {_measured(of, row['command'])}: `{row['command']}`; {row['hardware']}; {row['versions']}"
                for row in told.to_dict("records")
            ]
            lines += ["", links, ""]
        lines += ["| claim | data | measured | result, 95 % interval | published | verdict |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for row in of.to_dict("records"):
            cells = [row["claim"], f"{row['data']}; {row['n']}", row["statistic"], row["result"], row["published"]]
            lines.append(
                "| " + " | ".join([*(str(c).replace("|", "\\|") for c in cells), f"**{row['verdict']}**"]) + " |"
            )
        for figure in sorted(folder.glob(f"{name}_{size}*.svg"), key=_in_order):
            of_part = figure.stem.removeprefix(f"{name}_{size}").strip("_")
            told_part = f", {of_part}" if of_part else ""
            lines += ["", f"![Results of {name}.py, {size} size{told_part}]({figure.name})"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _measured(claims: pd.DataFrame, command: str) -> str:
    """Return which data sets and networks a command's claims are of."""
    of = claims[claims["command"] == command]["data"]
    return ", ".join(dict.fromkeys(re.split(r",|;| and ", text)[0] for text in of))


def _in_order(figure: Path) -> tuple[int, str]:
    """Return what sorts figures by data set, in the order of the catalogue, the one of all first."""
    known = [index for index, name in enumerate(DATASETS) if figure.stem.endswith(f"_{name}")]
    return (known[0] if known else -1 if figure.stem.endswith(SIZES) else len(DATASETS), figure.stem)


def _link(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


if __name__ == "__main__":
    main()
