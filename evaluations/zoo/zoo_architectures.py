"""Does every network of RobustBench's CIFAR leaderboards load, and can it be audited? Each with random weights.

For each model of the two Linf leaderboards, in its own process: build RobustBench's network, save it at the zoo's path
and in the format that RobustBench reads, load it by name without a connection, compare the logits, and audit it. Needs
8 GB of memory and 2 GB of disk, but none of the models' weights. Existing rows are kept:

    python evaluations/zoo/zoo_architectures.py  # an hour or more on one core
    python evaluations/zoo/zoo_architectures.py --table docs/zoo.md   # only writes the page's tables
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.machine import hardware, versions

import art_classwise as acw
from art_classwise._core.forward import is_out_of_memory
from art_classwise.zoo.robustbench import cuda_optional, published, robustbench, robustbench_files

N_CLASSES = {"cifar10": 10, "cifar100": 100}
N, ATTACKS = 8, ("fgsm",)
COLUMNS = (
    *("dataset", "name", "class", "structure", "parameters M", "file MB", "loads", "audited", "reason"),
    *("peak MB", "seconds", "n", "attacks", "hardware", "versions", "command"),
)
TABLE = Path(__file__).parents[1] / "results" / "zoo_architectures" / "zoo_architectures.csv"
_BEGIN, _END = "<!-- tables: evaluations/zoo/zoo_architectures.py -->", "<!-- end of tables -->"


def main() -> None:
    """Measure, or write the tables, as the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=N_CLASSES, default=list(N_CLASSES))
    parser.add_argument("--names", nargs="+", help="only these models")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--folder", type=Path, help="folder for temporary weights; default: the system's")
    parser.add_argument("--memory", type=float, default=8.0, help="memory limit per model, in GB")
    parser.add_argument("--timeout", type=float, default=900.0, help="time limit per model, in seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, help="only write the tables into this page")
    arguments = parser.parse_args()
    if arguments.table is not None:
        write_tables(arguments.table, read_rows(arguments.out))
        return
    models = [
        (dataset, name)
        for dataset in arguments.datasets
        for name in acw.zoo.robustbench_names(dataset, "Linf")
        if arguments.names is None or name in arguments.names
    ]
    measure(models, arguments.out, arguments.folder, arguments.memory, arguments.timeout, arguments.threads)


def measure(
    models: Iterable[tuple[str, str]],
    out: Path,
    folder: Path | None = None,
    memory: float = 8.0,
    timeout: float = 900.0,
    threads: int = 1,
) -> None:
    """Try models one after the other, each in a process of its own, and append a row of each to a CSV file.

    Args:
        models: Data sets and names; those that have a row in ``out`` are left out.
        out: The file.
        folder: Where a temporary folder is made for the weights.
        memory: GB that a process may take.
        timeout: Seconds that it may take.
        threads: Of torch, in the process.
    """
    rows = read_rows(out)
    done = {(row["dataset"], row["name"]) for row in rows}
    audited = {row["structure"]: f"{row['dataset']} {row['name']}" for row in rows if row["audited"] == "yes"}
    torch.set_num_threads(threads)  # hardware() tells it
    software = f"{versions()}, RobustBench {version('robustbench')}, timm {version('timm')}"
    for dataset, name in models:
        if (dataset, name) in done:
            continue
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as weights:
            task = {"name": name, "dataset": dataset, "model_dir": weights, "audited": audited}
            row = _apart({**task, "memory": memory, "threads": threads}, timeout)
        if row["audited"] == "yes":
            audited[row["structure"]] = f"{dataset} {name}"
        row |= {"dataset": dataset, "name": name, "seconds": f"{time.perf_counter() - began:.1f}"}
        row |= {"n": N, "attacks": ", ".join(ATTACKS), "hardware": hardware(), "versions": software}
        row["command"] = "python evaluations/zoo/zoo_architectures.py"
        new = not out.exists()
        with out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(dataset, name, row["loads"], row["audited"], row["peak MB"], row["seconds"], row["reason"], flush=True)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none if it isn't there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _apart(task: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Run :func:`try_model` in a process of its own; whatever becomes of that, return a row."""
    row: dict[str, Any] = {"loads": "no", "audited": "no", "reason": "", "peak MB": ""}
    command = [sys.executable, __file__, "--one", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {**row, "loads": "not tried", "reason": f"it took more than {timeout:.0f} s"}
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    if answers:
        return row | json.loads(answers[-1])
    said = done.stderr.strip().splitlines() or [""]
    return {**row, "reason": f"its process ended with code {done.returncode}: {said[-1]}"}


def try_model(
    name: str,
    dataset: str,
    model_dir: str | Path,
    audited: Mapping[str, str] | None = None,
    memory: float | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Build, save, load, compare and audit one model.

    Args:
        name: As in RobustBench's table.
        dataset: ``"cifar10"`` or ``"cifar100"``.
        model_dir: A folder for its weights; they are deleted.
        audited: Networks that were audited already, by :func:`structure`: one of the same structure is not, again.
        memory: GB that this process may take from now on, if given. Only Linux holds a process to it.
        threads: Of torch, if given.

    Returns:
        The row, less what :func:`measure` knows. ``loads`` is ``"yes"`` only if the logits are those of the network
        that was saved.
    """
    if memory is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 1e9), int(memory * 1e9)))
    if threads is not None:
        torch.set_num_threads(threads)
    row: dict[str, Any] = {"loads": "no", "audited": "no", "reason": ""}
    files = robustbench_files(name, dataset, "Linf", model_dir)
    x = np.random.default_rng(0).random((N, 3, 32, 32), dtype=np.float32)
    step = "it can't be built"
    try:
        torch.manual_seed(0)
        network = network_of(name, dataset)
        row |= {"class": type(network).__name__, "structure": structure(network)}
        row["parameters M"] = f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}"
        step = "it can't be computed"
        expected = _tame(network, torch.from_numpy(x[:2]), row)
        step = "it can't be saved"
        save(network, name, list(files), of_timm=None in files.values())
        row["file MB"] = f"{sum(file.stat().st_size for file in files) / 1e6:.0f}"
        del network
        step = "it doesn't load"
        classifier = acw.load_robustbench(name, dataset, "Linf", model_dir, device="cpu")
        logits = torch.from_numpy(classifier.predict(x[:2]))
        if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
            off = float((logits - expected).abs().max())
            raise AssertionError(f"its logits differ by {off:.3g} from those of the network that was saved")
        row["loads"] = "yes"
        if audited and row["structure"] in audited:
            row["audited"] = f"as {audited[row['structure']]}"
        else:
            step = "it can't be audited"
            _audit(classifier, x)
            row["audited"] = "yes"
    except Exception as error:  # of any kind: the reason is what is looked for
        traceback.print_exc()
        if memory is not None and (is_out_of_memory(error) or "isn't enough memory" in str(error)):
            row["reason"] = f"{'auditing' if row['loads'] == 'yes' else 'loading'} takes more than {memory:g} GB"
        else:
            lines = str(error).strip().splitlines() or [""]
            row["reason"] = " ".join(f"{step}: {type(error).__name__}: {lines[0]}".split())
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return {**row, "peak MB": _peak()}


def _audit(classifier: Any, x: np.ndarray) -> None:
    y = classifier.predict(x, batch_size=len(x)).argmax(1).astype(np.int64)  # all are right, so all are attacked
    data = acw.Dataset(x, y, [f"class {k}" for k in range(classifier.nb_classes)], name="random")
    audit = acw.ClassWiseAudit("Linf:8/255", ATTACKS, checks=False, verbose=False)
    outcomes = audit.evaluate({"it": classifier}, data).outcomes
    if len(outcomes) != len(x) * len(ATTACKS) or not np.isfinite(outcomes["margin"]).all():
        raise AssertionError("the audit's outcomes are not whole")


def _peak() -> str:
    if sys.platform == "win32":
        return ""
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{highest / 1e6:.0f}"


def structure(network: nn.Module) -> str:
    """Return a digest of what a network computes but for its tensors' values: its classes, their arguments, shapes.

    Two networks of one class that were made with the same arguments have the same one.
    """
    said = [repr(network), *(f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items())]
    for path, module in network.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str, tuple, type(None)))}
        said.append(f"{path} {type(module).__qualname__} {sorted(plain.items())}")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def network_of(name: str, dataset: str) -> nn.Module:
    """Build RobustBench's network of a model with fresh weights, in eval mode."""
    enums, tables = robustbench("model_zoo.enums"), robustbench("model_zoo").model_dicts
    entry = tables[enums.BenchmarkDataset(dataset)][enums.ThreatModel.Linf][name]
    with cuda_optional():
        if entry["gdrive_id"] is not None:
            network: nn.Module = entry["model"]()
        else:  # the entry names a model that timm doesn't know; RobustBench's loader goes by this name
            known = f"{name.lower().replace('-', '_')}_{dataset}_linf"
            network = importlib.import_module("timm").create_model(known, num_classes=N_CLASSES[dataset])
    return network.eval()


def save(network: nn.Module, name: str, files: Sequence[Path], *, of_timm: bool = False) -> None:
    """Save a network's weights in the form in which RobustBench's loader expects them.

    Args:
        network: From :func:`network_of`.
        name: Its name, on which the form depends.
        files: Where to: several for an ensemble.
        of_timm: Whether timm loads it, which takes the names of the weights as they are.
    """
    files[0].parent.mkdir(parents=True, exist_ok=True)
    whole: Any = network
    if of_timm:
        parts: list[Any] = [network.state_dict()]
    elif len(files) == 1:
        weights = _prefixed(network.state_dict(), ("module.", "model."))
        parts = [{"last": weights} if name == "Andriushchenko2020Understanding" else weights]
    elif name.startswith("Bai2023Improving"):
        mixed = whole.comp_model
        mixing = {"model": mixed.policy_net.state_dict(), "bn": mixed.bn.state_dict()}
        parts = [*(_prefixed(model.state_dict()) for model in mixed.models), mixing]
    elif name.startswith("Bai2024MixedNUTS"):
        parts = [_prefixed(model.state_dict()) for model in (whole.std_model, whole.rob_model)]
    else:
        parts = [_prefixed(model.state_dict()) for model in whole.models]
    for file, part in zip(files, parts, strict=True):
        torch.save(part, file)


def _prefixed(weights: Mapping[str, Tensor], cut: Sequence[str] = ("module.",)) -> dict[str, Tensor]:
    """Lengthen the names that RobustBench would cut: it takes so many letters off the front where a word is in them."""

    def read(key: str) -> str:
        for word in cut:
            key = key[len(word) :] if word in key else key
        return key

    fronts = ("", *cut, "".join(cut))
    return {next(front + key for front in fronts if read(front + key) == key): value for key, value in weights.items()}


def _tame(network: nn.Module, x: Tensor, row: dict[str, Any]) -> Tensor:
    """Return the logits of images; where random weights make them infinite, halve those of the convolutions first."""
    for halvings in range(20):
        with torch.no_grad():
            logits: Tensor = network(x)
        if torch.isfinite(logits).all():
            if halvings:
                row["reason"] = f"its convolutions' random weights were halved {halvings} times, for finite logits"
            return logits
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data *= 0.5
    raise AssertionError("random weights give no finite logits")


def write_tables(page: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a table of each data set's rows between two marks of a page.

    Raises:
        ValueError: The page has no such marks, or there are no rows.
    """
    before, begun, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not (begun and ended and rows):
        raise ValueError(f"{page} has no lines {_BEGIN} and {_END}, or nothing was measured.")
    text = "\n\n".join(_table(dataset, [row for row in rows if row["dataset"] == dataset]) for dataset in N_CLASSES)
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}", encoding="utf-8")


def _table(dataset: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Return one data set's table, the most robust model first, under what it was measured with."""
    if not rows:
        return f"### {dataset}, Linf\n\nNothing was measured."

    def numbers(row: Mapping[str, str]) -> tuple[str, str, str, float]:
        known = published(row["name"], dataset, "Linf")
        if known is None:
            return "", "", "", -1.0
        external = "" if known.external is None else f" ({100 * known.external:.2f})"
        return known.architecture, f"{100 * known.clean:.2f}", f"{100 * known.robust:.2f}{external}", known.robust

    def line(row: Mapping[str, str]) -> str:
        architecture, clean, robust, _ = numbers(row)
        peak = f"{float(row['peak MB']) / 1000:.1f}" if row["peak MB"] else ""
        cells = [row["name"], architecture, row["parameters M"], clean, robust, row["loads"], row["audited"], peak]
        return f"| {' | '.join([*cells, row['reason']])} |"

    def said(column: str) -> str:
        return "; ".join(dict.fromkeys(row[column] for row in rows))

    loads = sum(row["loads"] == "yes" for row in rows)
    audited = sum(row["audited"] != "no" for row in rows)
    return "\n".join(
        [
            f"### {dataset}, Linf",
            "",
            f"{loads} of {len(rows)} models load, {audited} can be audited, or one of the same class and arguments. "
            f"`{said('command')}`: {said('n')} random images, attacks: {said('attacks')}; {said('hardware')}; "
            f"{said('versions')}.",
            "",
            "| model | architecture | weights, M | clean % | AutoAttack % | loads | audited | peak GB | why not |",
            "| --- | --- | ---: | ---: | ---: | --- | --- | ---: | --- |",
            *map(line, sorted(rows, key=lambda row: -numbers(row)[3])),
        ]
    )


def refuse(*_: object) -> None:
    """Stand in for every connection: a model that is at hand must load without one."""
    raise OSError("a connection was tried")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        socket.socket.connect = refuse  # type: ignore[method-assign, assignment]
        print(json.dumps(try_model(**json.loads(sys.argv[2]))))
    else:
        main()
