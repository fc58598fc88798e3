"""What ``--require`` and ``--junit`` do: judge, print, and end with exit code 4."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from art_classwise.errors import InputError, printable

if TYPE_CHECKING:
    from art_classwise.audit import Requirement, Verdicts

__all__ = ["NOT_MET", "conclude", "required"]

NOT_MET = 4
"""Exit code where a requirement isn't met."""


def required(require: Sequence[str] | None, junit: Path | None) -> tuple[Requirement, ...]:
    """Return what is required, before any work begins.

    Raises:
        InputError: A requirement has another form, the file can't be written, or there is nothing to write to it.
    """
    if not require:
        if junit is not None:
            raise InputError("--junit writes what came of requirements: also give --require, e.g. 'worst >= 0.30'.")
        return ()
    from art_classwise._core.files import check_output_file
    from art_classwise.audit.requirements.grammar import parsed

    if junit is not None:
        check_output_file(junit, "requirements.xml")
    return parsed(require)


def conclude(verdicts: Verdicts | None, junit: Path | None, about: object, *, as_json: bool) -> None:
    """Say what came of requirements, write it, and end if one isn't met.

    Args:
        verdicts: What came of them; None where nothing was required.
        junit: A file to write.
        about: What was judged: the name of the test suite.
        as_json: Whether stdout holds a document, so that what failed has to be said on stderr.

    Raises:
        Exit: A requirement isn't met.
    """
    if verdicts is None:
        return
    from art_classwise.report.terminal import print_verdicts

    if junit is not None:
        verdicts.to_junit(junit, name=str(about))
    if not as_json:
        print_verdicts(verdicts)
        if junit is not None:
            print(f"junit     {junit}")
    if verdicts.met:
        return
    if as_json:
        for one in verdicts.failed:
            print(printable(str(one)), file=sys.stderr)
    several = f"{len(verdicts.failed)} of {len(verdicts)} requirements" if verdicts[1:] else "The requirement"
    print(f"{several} {'are' if verdicts[1:] else 'is'} not met.", file=sys.stderr)
    raise typer.Exit(NOT_MET)
