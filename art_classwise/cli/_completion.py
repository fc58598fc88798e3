"""What Tab completes: data sets, attacks, architectures, models, threat models. No torch is imported for it.

Typer has scripts for the shells (``--install-completion``, ``--show-completion``), which call the program. What it
returns must begin with what stands there; where it returns nothing, the shell completes the names of files.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from art_classwise.datasets.catalog import CORRUPTIONS, DATASETS
from art_classwise.trainers.catalog import method_names

__all__ = [
    "ARCHITECTURES",
    "ATTACKS",
    "RECIPES",
    "architectures",
    "attacks",
    "complete_in_bash",
    "datasets",
    "methods",
    "models",
    "policies",
    "recipes",
    "threats",
]

ATTACKS = (
    *("quick", "fast", "standard", "blackbox", "fgsm", "pgd-20", "pgd-100x5", "margin-20", "dlr-20", "kl-20"),
    *(
        "tpgd5-20",
        "targeted3-40",
        "apgd-t3-40",
        "fmn",
        "autoattack",
        "apgd-ce",
        "apgd-dlr",
        "apgd-t",
        "fab",
        "fab-t",
        "square",
    ),
    *("transfer-fgsm", "transfer-pgd-20", "transfer-margin-20"),
)
"""Ladders and some attacks, which are named after their steps."""

ARCHITECTURES = (
    *("digits-cnn", "mnist-cnn", "resnet8", "resnet8-stem2", "resnet14", "resnet20", "resnet18", "preactresnet18"),
    *("wrn-34-10", "wrn-28-10", "wrn-28-10-swish", "wrn-70-16-swish"),
)
RECIPES = (
    *("paper", "fast", "paper:awp", "paper:cfa", "paper:cfa-fat", "paper:cfol", "paper:dafa"),
    *("paper:faal", "paper:faal-awp", "paper:fat", "paper:frl", "paper:wat"),
)
_LIBRARIES = ("torchvision:", "timm:")


def datasets(incomplete: str) -> list[str]:
    """Complete a data set: a name, an .npz file or a folder."""
    return [*_beginning(DATASETS, incomplete), *_paths(incomplete, (".npz",))]


def threats(incomplete: str) -> list[str]:
    """Complete a threat model: those that are usual."""
    usual = dict.fromkeys((*(spec.threat for spec in DATASETS.values()), "Linf:4/255", "L2:0.5", "L1:12"))
    return list(_beginning(usual, incomplete))


def attacks(incomplete: str) -> list[str]:
    """Complete the last of some attacks with commas between."""
    before, comma, last = incomplete.rpartition(",")
    named = before.split(",")
    return [before + comma + name for name in _beginning(ATTACKS, last) if name not in named]


def corruptions(incomplete: str) -> list[str]:
    """Complete the last of some corruptions with commas between."""
    before, comma, last = incomplete.rpartition(",")
    named = before.split(",")
    return [before + comma + name for name in _beginning(("all", *CORRUPTIONS), last) if name not in named]


def methods(incomplete: str) -> list[str]:
    """Complete a training method."""
    return list(_beginning(method_names(), incomplete))


def policies(incomplete: str) -> list[str]:
    """Complete the name of a class policy."""
    return list(_beginning(("cfa", "cfol", "dafa", "faal", "frl", "wat", "weights:", "budgets:"), incomplete))


def recipes(incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return list(_beginning(RECIPES, incomplete))


def architectures(incomplete: str) -> list[str]:
    """Complete an architecture, or that of one model: MODEL=ARCH."""
    model, equals, last = incomplete.rpartition("=")
    found = [*_beginning((*ARCHITECTURES, *_LIBRARIES), last), *_paths(last, (".py",))]
    return [model + equals + name for name in found]


def models(incomplete: str) -> list[str]:
    """Complete a model: a file, a folder, or one of RobustBench; NAME= may stand before it."""
    label, equals, source = incomplete.rpartition("=")
    found: Iterable[str]
    if source.startswith("robustbench:"):
        found = _beginning(_robustbench(), source)
    else:
        found = [*_beginning(("robustbench:", "hf:"), source), *_paths(source, (".pt", ".pth", ".safetensors", ".bin"))]
    return [label + equals + name for name in found]


def _robustbench() -> Iterator[str]:
    """Yield RobustBench's models, with and without their data sets. Importing the zoo would import torch."""
    table = Path(__file__).parents[1] / "zoo" / "published.csv"
    with table.open(encoding="utf-8", newline="") as lines:
        published = [row for row in csv.DictReader(lines) if row["source"] != "model_info"]  # others aren't in its zoo
    rows = [(row["dataset"], row["name"]) for row in published]
    yield "robustbench:all"
    yield from dict.fromkeys(f"robustbench:{name}" for _, name in rows)
    yield from dict.fromkeys(f"robustbench:{dataset}/{name}" for dataset, name in rows)


def _beginning(names: Iterable[str], incomplete: str) -> Iterator[str]:
    return (name for name in names if name.startswith(incomplete))


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield folders and files of these kinds that begin so."""
    folder, slash, _ = incomplete.rpartition("/")
    try:
        inside = sorted(os.scandir(f"{folder}/" if slash else "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in inside:
        path = f"{folder}{slash}{entry.name}"
        if path.startswith(incomplete) and not (entry.name.startswith(".") and incomplete in ("", f"{folder}/")):
            if entry.is_dir():
                yield f"{path}/"
            elif entry.name.endswith(suffixes):
                yield path


_BREAKS = ":="


def complete_in_bash(run: Callable[[], None]) -> None:
    """Run a completion for bash, which takes ":" and "=" for ends of words: ``robustbench:Wo`` is three to it.

    Args:
        run: Prints what completes the whole word, and exits.
    """
    words, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    whole, now = _joined(words, at)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(whole), str(now)
    value = whole[now] if now < len(whole) else ""
    if value.startswith("-"):
        value = value.partition("=")[2]
    kept = max(value.rfind(mark) for mark in _BREAKS) + 1  # stands there already, in words of its own
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run()
    finally:
        for line in printed.getvalue().splitlines():
            print(line[kept:] if line.startswith(value[:kept]) else line)


def _joined(words: list[str], at: int) -> tuple[list[str], int]:
    """Return words as they were typed, and which one the cursor is in."""
    whole: list[str] = []
    now, glued = 0, False
    for i, word in enumerate(words):
        is_break = bool(re.fullmatch(f"[{_BREAKS}]+", word))
        if whole and (glued or is_break):
            whole[-1] += word
        else:
            whole.append(word)
        glued = is_break
        if i == at:
            now = len(whole) - 1
    return whole, now
