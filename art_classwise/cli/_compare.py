"""The command ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_classwise.cli._json import comparison_content, printing, requirements_content
from art_classwise.cli._options import OUTPUT, Json, JUnit, Latex, Require, one_radius, write_latex
from art_classwise.cli._requirements import conclude, required
from art_classwise.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from art_classwise.audit import AuditResult
    from art_classwise.audit.comparison import Comparison, Kind

__all__ = ["compare"]

_COMPARED = "What is compared"


def _option(flag: str, metavar: str, says: str) -> Any:
    return typer.Option(flag, help=says, metavar=metavar, show_default=False, rich_help_panel=_COMPARED)


def compare(
    folder: Annotated[Path, typer.Argument(help="The folder of an audit.")],
    other: Annotated[
        Path | None, typer.Argument(help="The folder of another audit of the same examples.", show_default=False)
    ] = None,
    models: Annotated[
        str | None,
        _option("--models", "NAMES", "Names separated by commas: some of one audit, or one of each. Default: all."),
    ] = None,
    attack: Annotated[
        str | None,
        _option("--attack", "NAME", "Compare models under this attack. Default: all attacks together."),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Compare models' accuracy without an attack.", rich_help_panel=_COMPARED),
    ] = False,
    attacks: Annotated[
        str | None,
        _option("--attacks", "NAMES", "Compare two attacks of one audit: names separated by a comma."),
    ] = None,
    model: Annotated[str | None, _option("--model", "NAME", "Compare attacks on this model.")] = None,
    radius: Annotated[
        str | None,
        _option(
            "--radius",
            "EPS",
            "Compare at this radius, in place of the audits', which may be of two: for attacks that look for the "
            "smallest perturbations (--attack fmn).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="CSV file for the whole table.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    latex: Latex = None,
    require: Require = None,
    junit: JUnit = None,
    json: Json = False,
) -> None:
    """Compare models, or two attacks, on the same examples, class by class: differences, intervals, tests.

    Of more than two models, each pair has a row: each against the first, or each of one audit against each of another.

    Three or more of one audit are also compared with the best of the others.
    """
    from art_classwise._core.files import check_output_file, output_file
    from art_classwise.audit import read_audit
    from art_classwise.audit.comparison import check_differences, comparison_table
    from art_classwise.report.terminal import print_comparison, print_pairs, print_standings

    requirements = required(require, junit)
    if out is not None:
        check_output_file(out, "comparison.csv")
    kind: Kind = "clean" if clean else "robust"
    eps = None if radius is None else one_radius("--radius", radius)
    _check(other, models, attack, attacks, model, eps, kind)
    result, standings = read_audit(folder), None
    if attacks is not None:
        made = [_attacks(result, attacks, model, eps)]
    elif other is None:
        names = _names(models, result.models) or list(result.models)
        made = _within(result, folder, names, attack, kind, eps)
        standings = _standings(result, names, attack, kind, eps) if len(names) > 2 else None
    else:
        results = result, read_audit(other)
        pair = _names(models, [name for one in results for name in one.models])
        made = _between(results, (folder, other), pair, attack, kind, eps)
    verdicts = check_differences(made, requirements) if requirements else None
    table = comparison_table(made)
    if out is not None:
        if len(made) == 1:
            made[0].to_csv(out)
        else:
            with output_file(out, "comparison.csv") as aside:
                table.to_csv(aside)
    files = write_latex(latex, *(one.to_latex() for one in made))
    if json:
        with printing(json) as write:
            write("comparison", comparison_content(made, standings) | requirements_content(verdicts))
        conclude(verdicts, junit, folder, as_json=True)
        return
    if len(made) == 1:
        print_comparison(made[0])
    else:
        print_pairs(table, made)
    if standings is not None:
        print_standings(standings, made[0].about)
    if out is not None:
        print(f"table     {out}")
    for kind_of_file, path in files.items():
        print(f"{kind_of_file:<9} {path}")
    conclude(verdicts, junit, folder, as_json=False)


def _check(
    other: Path | None,
    models: str | None,
    attack: str | None,
    attacks: str | None,
    model: str | None,
    eps: float | None,
    kind: Kind,
) -> None:
    """Refuse options that don't fit each other, before an audit is read."""
    from art_classwise.audit.comparison import check_kind

    check_kind(kind, eps)
    if attacks is None:
        if model is not None:
            raise InputError(
                "--model chooses the model on which two attacks are compared: also give --attacks X,Y. Models that are "
                f"compared are named by --models, e.g. --models {model},OTHER."
            )
        return
    if other is not None or models is not None:
        raise InputError("--attacks compares two attacks of one audit: give one folder and no --models.")
    if attack is not None or kind != "robust":
        raise InputError("--attacks can't be combined with --attack or --clean, which compare models.")


def _names(text: str | None, known: Sequence[str]) -> list[str] | None:
    """Part a text into names; those that are known may hold commas themselves."""
    if text is None:
        return None
    parts = text.split(",")
    names = [part.strip() for part in parts]
    if all(name in known for name in names):
        return names
    names = []
    while parts:
        joined = [",".join(parts[:end]).strip() for end in range(len(parts), 0, -1)]
        name = next((one for one in joined if one in known), joined[-1])
        names.append(name)
        parts = parts[len(parts) - joined.index(name) :]
    return names


def _attacks(result: AuditResult, text: str, model: str | None, eps: float | None) -> Comparison:
    from art_classwise.attacks.ladder import WORST_CASE
    from art_classwise.audit.comparison import compare_within
    from art_classwise.errors import unknown

    if model is not None and model not in result.models:
        raise unknown("model", model, result.models)
    if model is None and len(result.models) > 1:
        raise InputError(f"The audit has {len(result.models)} models: choose one, e.g. --model {result.models[0]}.")
    names = _names(text, (*result.attacks, WORST_CASE)) or []
    if len(names) != 2:
        raise InputError(f"--attacks takes two names separated by a comma, e.g. {','.join(result.attacks[:2])}")
    for name in names:
        if name not in (*result.attacks, WORST_CASE):
            raise unknown("attack", name, (*result.attacks, WORST_CASE))
    return compare_within(result, names[0], names[1], model=model or result.models[0], eps=eps)


def _within(
    result: AuditResult, folder: Path, names: list[str], attack: str | None, kind: Kind, eps: float | None
) -> list[Comparison]:
    """Compare the first model of an audit with each other one."""
    from art_classwise.attacks.ladder import WORST_CASE
    from art_classwise.audit.comparison import compare_within
    from art_classwise.errors import unknown

    under = WORST_CASE if attack is None else attack  # said, for models may be named like attacks
    first, *others = names
    for name in (first, *others):
        if name not in result.models:
            raise unknown("model", name, result.models)
    if not others:
        raise InputError(
            f"A single model, {first!r}, can't be compared; {folder} holds {', '.join(result.models)}. Name two of its "
            "models (--models), two of its attacks (--attacks), or the folder of another audit."
        )
    return [compare_within(result, first, second, attack=under, kind=kind, eps=eps) for second in others]


def _standings(
    result: AuditResult, names: Sequence[str], attack: str | None, kind: Kind, eps: float | None
) -> pd.DataFrame:
    """Compare each model with the best of the others, by mean and by worst class."""
    import pandas as pd

    options: dict[str, Any] = {"attack": attack, "kind": kind, "eps": eps}
    mean = result.compare_with_best(names, measure="mean", **options)
    worst = result.compare_with_best(names, measure="worst", **options)
    return pd.concat({"mean": mean, "worst": worst}, names=["measure"])


def _between(
    results: tuple[AuditResult, AuditResult],
    folders: tuple[Path, Path],
    names: list[str] | None,
    attack: str | None,
    kind: Kind,
    eps: float | None,
) -> list[Comparison]:
    """Compare each model of an audit with each one of another; a network that is in both isn't compared with itself."""
    from dataclasses import replace

    from art_classwise.attacks.ladder import WORST_CASE
    from art_classwise.audit.comparison import Side, compare, is_same_network

    if names is not None and len(names) != 2:
        raise InputError(f"--models takes one name of each audit, separated by a comma, but got {len(names)}.")
    under = WORST_CASE if attack is None else attack
    pairs = [tuple(names)] if names else [(a, b) for a in results[0].models for b in results[1].models]
    roots = [folder.resolve().name for folder in folders]
    roots = roots if roots[0] != roots[1] else ["first", "second"]
    made = []
    for a, b in pairs:
        sides = Side(results[0], a, under, a), Side(results[1], b, under, b)
        if len(pairs) > 1 and is_same_network(*sides):
            continue
        one = compare(*results, models=(a, b), attack=under, kind=kind, eps=eps)
        if set(results[0].models) & set(results[1].models):  # one name may mean two networks: say where each is from
            one = replace(one, first=f"{roots[0]}/{a}", second=f"{roots[1]}/{b}")
        made.append(one)
    if not made:
        raise InputError(f"{folders[0]} and {folders[1]} hold the same networks, so there is nothing to compare.")
    return made
