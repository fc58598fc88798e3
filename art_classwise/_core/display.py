"""How results look in a notebook, in a Python shell and as a page: what they found, not what they are made of.

What draws and writes lies in ``report/``, which knows the results; the package attaches it here by its modules' names,
and it is imported once something is shown: nothing below the reports needs it.
"""

from __future__ import annotations

import importlib
import weakref
from typing import TYPE_CHECKING, Any, Literal

from art_classwise.errors import first_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shown", "attach", "explorer", "latex", "page", "shown_as"]

_attached: dict[str, str] = {}


def attach(*, notebook: str, page: str, latex: str) -> None:
    """Name the modules that show results.

    Args:
        notebook: A module with ``text(value)``, ``html(value)``, ``table_html(table, kind)`` and
            ``explorer(result, classes)``.
        page: A module with ``render(result, certificates)``.
        latex: A module with ``latex(result)``.
    """
    _attached.update(notebook=notebook, page=page, latex=latex)


def page(result: Any, certificates: Any = None) -> str:
    """Return a result as one HTML page, certificates beside it."""
    written: str = importlib.import_module(_attached["page"]).render(result, certificates)
    return written


def latex(result: Any) -> str:
    """Return a result as tables for LaTeX."""
    written: str = importlib.import_module(_attached["latex"]).latex(result)
    return written


def explorer(result: Any, classes: Any = None) -> Any:
    """Return what shows the classes of a result one by one."""
    return _notebook().explorer(result, classes)


def _notebook() -> Any:
    return importlib.import_module(_attached["notebook"])


class Shown:
    """Something that the attached modules know how to show."""

    def __repr__(self) -> str:
        try:
            written: str = _notebook().text(self)
            return written
        except Exception as error:  # a debugger asks about half-made objects, too
            return f"<{type(self).__name__}, which can't be shown: {first_line(error)}>"

    def _repr_html_(self) -> str:
        written: str = _notebook().html(self)
        return written


def shown_as(table: pd.DataFrame, kind: Literal["classes", "history", "models"]) -> pd.DataFrame:
    """Give a table a look of its own in notebooks: percents, and the worst class marked.

    It is pandas' own DataFrame, of no other class: whatever compares, joins, pickles or writes tables does so as ever.
    What is made of it, by ``table[...]``, say, looks as pandas has it.

    Args:
        table: The table.
        kind: Its rows are ``"classes"`` (or groups), epochs of a ``"history"``, or ``"models"``.

    Returns:
        The same table.
    """
    # Notebooks ask the object, not its class. A subclass would not equal a DataFrame for pandas' assert_frame_equal,
    # and its pickles could not be read without this package.
    ours = weakref.ref(table)

    def html() -> str | None:
        import pandas as pd

        shown = ours()
        if shown is None or not pd.get_option("display.notebook_repr_html"):
            return None
        written: str | None = _notebook().table_html(shown, kind)
        of_pandas: Any = pd.DataFrame
        return of_pandas._repr_html_(shown) if written is None else written

    object.__setattr__(table, "_repr_html_", html)
    return table
