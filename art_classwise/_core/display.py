"""How results look in a notebook and in a Python shell: what they found, not what they are made of."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal

from art_classwise.errors import first_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shown", "shown_as"]


class Shown:
    """Something that :mod:`art_classwise.report.notebook` knows how to show.

    What draws and writes is imported once something is shown: nothing below the reports needs it.
    """

    def __repr__(self) -> str:
        from art_classwise.report.notebook import text

        try:
            return text(self)
        except Exception as error:  # a debugger asks about half-made objects, too
            return f"<{type(self).__name__}, which can't be shown: {first_line(error)}>"

    def _repr_html_(self) -> str:
        from art_classwise.report.notebook import html

        return html(self)


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

        from art_classwise.report.notebook import table_html

        shown = ours()
        if shown is None or not pd.get_option("display.notebook_repr_html"):
            return None
        written = table_html(shown, kind)
        of_pandas: Any = pd.DataFrame
        return of_pandas._repr_html_(shown) if written is None else written

    object.__setattr__(table, "_repr_html_", html)
    return table
