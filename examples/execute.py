"""Execute the notebooks of this folder in place: `python examples/execute.py [NAMES] [--parameters k=v ...]`.

Without names all of them are executed, in the working directory, where they find their data (``data/``) and leave what
they trained (``runs/``). What is stored afterwards is what ran: code, text, tables and pictures. Execution times,
states of progress bars and other metadata are dropped, and the working directory's own path becomes ``.``, so that a
notebook tells nothing of the machine but what it prints itself. Needs nbclient and ipykernel.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

__all__ = ["complaints", "execute", "main"]

HERE = Path(__file__).parent
_BAR = "application/vnd.jupyter.widget-view+json"
_KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_PATH = re.compile(r"(?<![\w.:/<~-])/(?:home|root|tmp|usr|opt|mnt|var|work|Users|private)/[^\s'\"<>]*|[A-Z]:\\\\?Users")


def execute(
    path: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    folder: str | os.PathLike[str] = ".",
    timeout: int = 1800,
) -> nbformat.NotebookNode:
    """Execute a notebook and return it with its outputs, tidied. The file stays as it is.

    Args:
        path: The notebook.
        parameters: Values that replace those of the cell tagged "parameters".
        folder: Where it runs.
        timeout: Seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
        ValueError: The notebook has no such parameter.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
    given = parameters or {}
    if given:
        at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
        known = _assigned(notebook.cells[at].source)
        for name in given:
            if name not in known:
                raise ValueError(f"{Path(path).name} has no parameter {name!r}: it has {', '.join(known)}.")
        source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        injected = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]}, id="injected")
        notebook.cells.insert(at + 1, injected)
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": os.fspath(folder)}})
    client.execute()
    return _tidied(notebook, os.path.abspath(folder))


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what an executed notebook must not hold: errors, stderr, a machine's paths, bars, figures not drawn."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            where, text = f"cell {number}", _text(output)
            if output.output_type == "error":
                found.append(f"{where} failed: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"{where} wrote to stderr: {text[:300]}")
            if _BAR in output.get("data", {}):
                found.append(f"{where} holds a progress bar")
            if text.lstrip().startswith("<Figure") and "image/png" not in output.data:
                found.append(f"{where} names a figure and doesn't show it")
            for path in _PATH.findall(text):
                found.append(f"{where} holds the path {path}")
    if not any(cell.get("outputs") for cell in notebook.cells):
        found.append("nothing was printed, shown or drawn")
    return found


def _assigned(source: str) -> list[str]:
    """Return the names that a cell assigns to."""
    targets = [t for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _tidied(notebook: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    notebook.metadata = nbformat.from_dict(_KERNEL)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":
            cell.outputs = [_without_path(o, folder) for o in cell.outputs if _BAR not in o.get("data", {})]
    return notebook


def _without_path(output: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    """Return an output in which the folder's own path is ``.``."""
    if "text" in output:
        output.text = output.text.replace(folder, ".")
    for kind, value in output.get("data", {}).items():
        if isinstance(value, str) and not kind.startswith("image/png"):
            output.data[kind] = value.replace(folder, ".")
    return output


def _text(output: nbformat.NotebookNode) -> str:
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/png")}
    return "\n".join([output.get("text", ""), *output.get("traceback", []), *map(str, data.values())])


def _value(text: str) -> Any:
    """Return a value as Python writes it, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(argv: Sequence[str] | None = None) -> int:
    """Execute notebooks and write them back, unless something in them is not to be stored."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("names", nargs="*", type=Path, help="notebooks; all of this folder if absent")
    parser.add_argument("--parameters", nargs="*", default=[], metavar="k=v", help="in place of the parameters' cell")
    parser.add_argument("--folder", type=Path, default=Path(), help="where they run: the working directory if absent")
    arguments = parser.parse_args(argv)
    parameters = {k: _value(v) for k, _, v in (one.partition("=") for one in arguments.parameters)}
    failed = False
    for path in arguments.names or sorted(HERE.glob("*.ipynb")):
        notebook = execute(path, parameters, folder=arguments.folder)
        wrong = complaints(notebook)
        if wrong:
            failed = True
            print(f"{path} is not written:", *wrong, sep="\n  ", file=sys.stderr)
            continue
        nbformat.write(notebook, path)
        print(path)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
