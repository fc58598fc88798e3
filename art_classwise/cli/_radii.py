"""What ``audit`` does with several radii: one audit each, a table and a figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from art_classwise.cli._json import Writer, audit_content, requirements_content, rows
from art_classwise.cli._messages import say
from art_classwise.cli._options import GroupNames, say_where, write_latex

if TYPE_CHECKING:
    from pathlib import Path

    from art_classwise.audit import AuditResult, Verdicts
    from art_classwise.datasets import Dataset
    from art_classwise.studies import RadiusSweep
    from art_classwise.threat import ThreatModel

__all__ = ["reported_again", "show_sweep", "swept"]


def swept(
    models: Mapping[str, Any],
    given: Any,
    data: Dataset,
    radii: Sequence[ThreatModel],
    options: Mapping[str, Any],
    optional: Collection[str],
    store: str,
) -> RadiusSweep:
    """Audit models at several radii or in several norms, and write each audit's report once it is there.

    Args:
        models: As for :meth:`art_classwise.ClassWiseAudit.evaluate`.
        given: The examples, likewise.
        data: The examples.
        radii: Threat models, by rising radius, or of several norms.
        options: Of :class:`art_classwise.ClassWiseAudit`.
        optional: As for :meth:`art_classwise.ClassWiseAudit.evaluate`.
        store: A folder with a folder for each radius in it, or its address.
    """
    from art_classwise._core.distributed import is_main
    from art_classwise.cli._images import with_kept_images
    from art_classwise.report import write_report
    from art_classwise.report.radii import write_radii
    from art_classwise.studies import audit_over_norms, audit_over_radii

    done: list[AuditResult] = []

    def finished(result: AuditResult, folder: str | None) -> None:
        done.append(result)
        if is_main() and folder is not None:
            write_report(with_kept_images(result, models, data, folder), folder)
            if options["verbose"]:
                say(f"{result.threat} is done, {len(done)} of {len(radii)} {'norms' if several else 'radii'}: {folder}")

    given_options = {key: value for key, value in options.items() if key not in ("threat", "attacks")}
    several = len({threat.norm for threat in radii}) > 1
    sweep = (audit_over_norms if several else audit_over_radii)(
        models,
        given,
        radii,
        options["attacks"],
        store=store,
        optional=optional,
        finished=finished,
        **given_options,
    )
    if is_main():
        write_radii(sweep, store)
    return sweep


def reported_again(store: str, groups: GroupNames | None) -> RadiusSweep:
    """Read audits at several radii, and write their reports again.

    Args:
        store: The folder with a folder for each radius in it, or its address.
        groups: What classes are grouped by, if they are.
    """
    from art_classwise._core.folders import open_folder
    from art_classwise.metrics import class_groups
    from art_classwise.report import write_report
    from art_classwise.report.radii import write_radii
    from art_classwise.studies.norms import read_several
    from art_classwise.studies.radii import radius_folders

    sweep = read_several(store)
    if groups is not None:
        class_groups(groups.value, sweep.results[0].classes)  # whether they fit
    open_folder(store).check_writable()
    folders = radius_folders(store)
    for result in sweep.results:
        write_report(result, folders[result.threat])
    write_radii(sweep, store)
    return sweep


def show_sweep(
    sweep: RadiusSweep,
    store: str,
    write: Writer | None,
    groups: GroupNames | None,
    latex: Path | None,
    verdicts: Verdicts | None = None,
) -> None:
    """Show audits over radii as a table, or as a document."""
    from art_classwise.report import report_files
    from art_classwise.report.radii import print_radii, radius_files
    from art_classwise.report.terminal import print_groups
    from art_classwise.studies import NormUnion
    from art_classwise.studies.radii import radius_folder

    files = radius_files(sweep, store) | ({} if latex is None else write_latex(latex, sweep.to_latex()))
    if write is None:
        print_radii(sweep)
        if groups is not None:
            for result in sweep.results:
                print_groups(result, groups.value)
        say_where(files)
        return
    named = None if groups is None else groups.value
    audits = [
        audit_content(result, report_files(f"{store}/{radius_folder(result.threat)}"), named)
        for result in sweep.results
    ]
    table = sweep.table().reset_index("threat")
    kind = "norms" if isinstance(sweep, NormUnion) else "radii"
    content = {"audits": audits, kind: rows(table, "model"), "files": files}
    write(kind, content | requirements_content(verdicts))
