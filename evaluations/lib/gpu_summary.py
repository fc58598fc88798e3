"""The output folder of gpu.py: what is done, the tables made of it, and their summary."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attack_speed
import audit_speed
import numpy as np
import pandas as pd

import art_classwise as acw
from art_classwise._core.files import written_aside
from art_classwise.audit.provenance import environment
from lib import paced
from lib.budget import Budget
from lib.machine import hardware, versions

TABLES = ("attacks", "training", "audit")


@dataclass(frozen=True)
class Settings:
    """What all calls with the same folder have in common, but for the device.

    Attributes:
        device: Where this call computes.
        made_up: Whether images are stand-ins.
        asked: Size, epochs, precision, ... by name.
    """

    device: str
    made_up: bool
    asked: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what must be the same in the next call."""
        return {**self.asked, "images": "made up" if self.made_up else "CIFAR-10"}


class Folder:
    """The output folder.

    Args:
        path: The folder; made if missing.
        settings: Of the call.

    Raises:
        InputError: It holds what was done with other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        path.mkdir(parents=True, exist_ok=True)
        self.hardware = hardware(settings.device)
        held = path / "settings.json"
        if held.is_file():
            told = json.loads(held.read_text())
            other = [f"{k} {told.get(k)!r}, not {v!r}" for k, v in settings.as_dict().items() if told.get(k) != v]
            if other:
                raise acw.InputError(
                    f"{path} holds results of another call: {'; '.join(other)}. Choose another --out, or the same "
                    "options."
                )
        else:
            _write(held, json.dumps(settings.as_dict(), indent=1))
        self._times = path / f"times-{slug(self.hardware)}.json"
        self.times: dict[str, float] = json.loads(self._times.read_text()) if self._times.is_file() else {}
        around = environment()
        self.origin = {
            "device": self.hardware,
            "driver": around.cuda_driver or "",
            "versions": versions(),
            "commit": around.commit or "",
            "images": settings.as_dict()["images"],
        }

    @property
    def summary(self) -> Path:
        """The file of the summary."""
        return self.path / "summary.md"

    def training(self, method: str) -> Path:
        """Return the folder of a training."""
        return self.path / "trainings" / method

    def outcomes(self, network: str) -> Path:
        """Return the folder of a network's outcomes."""
        return self.path / "outcomes" / network

    def stand_in_file(self, data: acw.Dataset) -> str:
        """Return a file of made-up images, as CIFAR-10's are read from."""
        path = self.path / "stand-in_test.npz"
        if not path.is_file():
            x = np.round(255 * np.asarray(data.x)).astype(np.uint8).transpose(0, 2, 3, 1)
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez(file, x=x, y=data.y)
        return str(path)

    # Speed.

    def has_case(self, table: str, case: Sequence[str]) -> bool:
        """Return whether a case was timed on this hardware."""
        return self._case(table, case).is_file()

    def add_case(
        self, table: str, case: Sequence[str], done: Mapping[str, Any], subject: audit_speed.Subject | None = None
    ) -> None:
        """Keep what was measured of a case, and write the table."""
        path = self._case(table, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        of = None if subject is None else [subject.network, subject.radius, subject.n_examples]
        _write(path, json.dumps({"case": list(case), "done": dict(done), "subject": of, "origin": self.origin}))
        paced.write_table(self.path / f"gpu_speed_{table}.csv", self.speed(table))

    def speed(self, table: str) -> pd.DataFrame:
        """Return the table of all cases that were timed, of each kind of hardware apart; empty if there is none."""
        files = sorted((self.path / "speed" / table).glob("*/*.json"), key=lambda file: file.stat().st_mtime_ns)
        cases = [json.loads(file.read_text()) for file in files]
        parts = []
        for device in dict.fromkeys(case["origin"]["device"] for case in cases):
            here = [case for case in cases if case["origin"]["device"] == device]
            if table == "audit":
                network, radius, n = here[0]["subject"]
                subject = audit_speed.Subject(network, radius, "", n)
                timed = {(subject, *case["case"]): [case["done"]] for case in here}
                made = audit_speed.table_of(timed, here[0]["case"][0])
                counts = made["way"].map(made["way"].value_counts())
                origins = {case["case"][0]: case["origin"] for case in here}
                origin = pd.DataFrame([origins[way] for way in made["way"]], index=counts.index)
            else:
                made = attack_speed.compared([attack_speed.row_of(tuple(c["case"]), [c["done"]]) for c in here])
                origin = pd.DataFrame([case["origin"] for case in here])
            parts.append(pd.concat([made, origin], axis=1))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _case(self, table: str, case: Sequence[str]) -> Path:
        return self.path / "speed" / table / slug(self.hardware) / f"{slug('_'.join(case))}.json"

    # Trainings and audits.

    def write_validation(self, method: str, classes: Sequence[str]) -> None:
        """Write the validation by epoch and class of a training that has done an epoch."""
        if paced.epochs_of(self.training(method)):
            table = paced.validation_table(self.training(method), classes)
            paced.write_table(self.path / f"gpu_validation_{method}.csv", table.assign(**self.origin))

    def write_classes(self, classes: Sequence[str]) -> None:
        """Write the accuracies by class of all networks."""
        if (table := self.classes(classes)) is not None:
            paced.write_table(self.path / "gpu_classes.csv", table.assign(**self.origin))

    def classes(self, classes: Sequence[str]) -> pd.DataFrame | None:
        """Return accuracies by network, attack and class; None if there are none."""
        tables = []
        folders = [folder for folder in sorted((self.path / "outcomes").glob("*")) if any(folder.glob("*.csv"))]
        for folder in folders:
            table = paced.class_table(paced.audited(folder), classes)
            tables.append(table.assign(network=folder.name)[["network", *table.columns]])
        return pd.concat(tables, ignore_index=True) if tables else None

    # The summary.

    def write_summary(self, budget: Budget) -> None:
        """Write the summary of all that is there, and the times of steps; also from another thread, at the end."""
        _write(self._times, json.dumps(self.times, indent=1))
        origin = "; ".join(f"{k} {v}" for k, v in self.origin.items() if v)
        asked = ", ".join(f"{k} {v}" for k, v in self.settings.as_dict().items())
        used = f"The last call took {budget.elapsed:.0f} s of {budget.seconds:.0f} s."
        parts = ["# On one GPU", f"{origin}.", f"Settings: {asked}. {used}"]
        for table in TABLES:
            made = self.speed(table)
            if len(made):
                parts += [f"## Speed: {table}", markdown(_short(made))]
        if trained := self._trained():
            parts += ["## Trainings", markdown(pd.DataFrame(trained))]
        path = self.path / "gpu_classes.csv"
        if path.is_file():
            for network, rows in pd.read_csv(path).groupby("network", sort=False):
                parts += [f"## By class: {network}", *_by_class(rows)]
        if budget.skipped:
            told = pd.DataFrame(budget.skipped, columns=["left out by the last call", "why"])
            parts += ["## Left out", markdown(told)]
        _write(self.summary, "\n\n".join(parts) + "\n")

    def _trained(self) -> list[dict[str, Any]]:
        rows = []
        for path in sorted(self.path.glob("gpu_validation_*.csv"), key=lambda file: file.stat().st_mtime_ns):
            table = pd.read_csv(path)
            method, everyone = path.stem.removeprefix("gpu_validation_"), table[table["class"] == "all"]
            best = everyone.loc[everyone["robust %"].idxmax()]
            by_class = table[(table["epoch"] == best["epoch"]) & (table["class"] != "all")].dropna(subset=["robust %"])
            worst = by_class.loc[by_class["robust %"].idxmin()]
            rows.append(
                {
                    "method": method,
                    "epochs": f"{len(everyone)} of {self.settings.asked['epochs']}",
                    "best epoch": int(best["epoch"]),
                    "validation: clean %": best["clean %"],
                    "robust %": best["robust %"],
                    "worst class": f"{worst['class']}, {worst['robust %']:.3g} %",
                    "images / s": everyone["images / s"].median(),
                }
            )
        return rows


def _by_class(rows: pd.DataFrame) -> list[str]:
    """Return the table of a network by class and attack, and a sentence on it."""
    order = list(dict.fromkeys(rows["attack"]))
    table = rows.pivot(index="class", columns="attack", values="accuracy %")
    table = table.reindex(index=list(dict.fromkeys(rows["class"])), columns=order)
    all_attacks = rows[rows["attack"] == "worst case"].set_index("class")
    table["95 % interval"] = [
        f"{row['low %']:.1f}–{row['high %']:.1f}" for _, row in all_attacks.reindex(table.index).iterrows()
    ]
    robust = all_attacks["accuracy %"].drop("all").dropna()
    told = (
        f"{int(all_attacks.loc['all', 'n']):,} test images, as many of each class as possible; accuracies in per cent, "
        "the interval is of the worst case."
    )
    if robust.max() > robust.min():
        told += (
            f" Weakest class: {robust.idxmin()}, {robust.min():.1f} %; strongest: {robust.idxmax()}, "
            f"{robust.max():.1f} %."
        )
    return [told, markdown(table.reset_index())]


_SHOWN = (
    *("benchmark", "network", "method", "way", "attack", "n", "seconds", "images x steps / s", "images / s"),
    *("TFLOP/s", "peak MiB", "robust %", "verdicts that differ"),
)


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that a reader looks at first, and none that are empty."""
    chosen = [c for c in table.columns if c in _SHOWN or c.startswith("times ")]
    more = ["device"] if table["device"].nunique() > 1 else []
    return table[[*chosen, *more]].dropna(axis=1, how="all")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, numbers in three digits and more."""

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return str(value).replace("|", "\\|")

    lines = [list(table.columns), ["---"] * table.shape[1]]
    lines += [[shown(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def slug(text: str) -> str:
    """Return a name for a file."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "nameless"


def _write(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text)
