"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from art_classwise import __version__
from art_classwise.cli._audit import audit, report, show
from art_classwise.cli._certify import certify
from art_classwise.cli._compare import compare
from art_classwise.cli._completion import complete_in_bash
from art_classwise.cli._interrupt import Interruptible
from art_classwise.cli._inventory import doctor, zoo
from art_classwise.cli._json import printing
from art_classwise.cli._messages import message_of, say, with_options
from art_classwise.cli._options import Json, Out, Quiet, Seed
from art_classwise.cli._plan import collect, plan, work
from art_classwise.cli._train import train
from art_classwise.cli._verify import verify
from art_classwise.errors import InputError, WriteError, printable

__all__ = ["app", "main"]

app = typer.Typer(
    name="art-classwise",
    cls=Interruptible,
    help="Train, attack and audit image classifiers, class by class.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_LINES = "\n"


def main() -> None:
    """Run the command line; what the user got wrong is one line on stderr and exit code 2, a failing disk code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets "?", not an error
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if os.environ.get("_ART_CLASSWISE_COMPLETE") == "complete_bash":
                complete_in_bash(app)
            else:
                app()
    except InputError as error:
        say(f"error: {message_of(error, _command())}")
        sys.exit(1 if isinstance(error, WriteError) else 2)
    except OSError as error:
        say(f"error: {printable(str(error), keep=_LINES)}")
        sys.exit(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {printable(with_options(str(message), _command()), keep=_LINES)}")


def _command() -> str:
    """Return the name of the command that runs."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"art-classwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train two small networks on handwritten digits, attack them, and show the results class by class."""
    from art_classwise.quickstart import quickstart as run

    with printing(json) as write:
        show(run(out, seed=seed, verbose=not quiet), out, write if json else None)


app.command()(train)
app.command()(audit)
app.command()(certify)
app.command()(report)
app.command()(plan)
app.command()(work)
app.command()(collect)
app.command()(verify)
app.command()(compare)
app.command()(zoo)
app.command()(doctor)
