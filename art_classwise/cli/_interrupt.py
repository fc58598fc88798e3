"""Ctrl-C and SIGTERM: one sentence says what is kept and which command goes on, in place of a traceback."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from art_classwise.cli._messages import say
from art_classwise.cli._usage import mend

__all__ = ["Interruptible", "command_line", "on_interrupt"]

_SAYS = f"{__name__}.says"


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: a cluster's scheduler wants the machine back, say."""


class Interruptible(TyperGroup):
    """Commands that end with a sentence and the exit code of shells, 128 and the signal's number, when interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            says = ctx.meta.get(_SAYS)
            if os.environ.get("RANK", "0") == "0":  # of torchrun's processes
                say(f"\n{'Interrupted.' if says is None else says()}")
            number = signal.SIGTERM if isinstance(stop, _TerminatedError) else signal.SIGINT
            raise typer.Exit(128 + number) from None
        except Exception as error:
            context = getattr(error, "ctx", None)
            if hasattr(error, "format_message") and context is not None:  # Typer's, of any version
                flags = [flag for parameter in context.command.params for flag in parameter.opts]
                mend(error, context.info_name or "", [flag for flag in flags if flag.startswith("--")])
            raise


def on_interrupt(context: typer.Context, says: Callable[[], str]) -> None:
    """Choose what is said if the command is interrupted from now on.

    Args:
        context: Of the command.
        says: Returns the sentence.
    """
    context.meta[_SAYS] = says


def command_line(*more: str) -> str:
    """Return the command that runs, as it is typed in a shell.

    Args:
        more: What is typed after it, where it isn't there already.
    """
    words = sys.argv[1:]
    return shlex.join(["art-classwise", *words, *(word for word in more if word not in words)])


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():  # others can't handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
