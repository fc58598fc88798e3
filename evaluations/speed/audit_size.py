"""Memory and disk that an audit needs, for speed.py."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lib.processes import answer, apart

import art_classwise as acw
from art_classwise.audit.manifest import Examples, Manifest, described
from art_classwise.audit.provenance import environment, fingerprint
from art_classwise.audit.store import Store, Unit

TABLES = ("memory", "disk")


IMAGES = {"tiny": 40, "quick": 500, "long": 2_000, "full": 50_000}
MODELS = {"tiny": 1, "quick": 1, "long": 5, "full": 30}


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return a table that speed.py's command line asks for: ``only`` is one of :data:`TABLES`."""
    if only == "memory":
        return measure_memory(IMAGES[arguments.size])
    return measure_disk(MODELS[arguments.size])


def measure_disk(n_models: int, n_attacks: int = 8, n_examples: int = 50_000, n_classes: int = 1_000) -> pd.DataFrame:
    """Write made-up outcomes of an audit of ImageNet's size, and read them.

    Args:
        n_models: How many models.
        n_attacks: How many attacks.
        n_examples: Examples per model and attack.
        n_classes: How many classes, of as many examples each. Labels come sorted; predictions and margins are random.

    Returns:
        One row: ``disk MB``, whole blocks of 4,096 bytes counted, ``bytes per row``, and the seconds it took to make
        and write the shards, to list their digests, to verify them (digests and rows; there is no page), to read the
        table, and to derive ``summary()``, ``worst_case()`` and the page from it, each also as the process's own CPU
        seconds, which other work on the machine doesn't lengthen; and what :func:`query` found, if DuckDB is there.
    """
    rng = np.random.default_rng(0)
    attacks = {f"attack{i}": described(f"attack{i}", {"number": i}) for i in range(n_attacks)}
    models = {f"model{i}": fingerprint(["model", i]) for i in range(n_models)}
    manifest = Manifest.begun(
        threat=acw.ThreatModel("Linf", 4 / 255),
        seed=0,
        worst_case=False,
        shard_size=512,
        examples=Examples(dataset="made up", split="test", n=n_examples),
        classes=tuple(f"class {k}" for k in range(n_classes)),
        models=models,
        attacks=attacks,
        environments=(environment(),),
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.join(manifest)
        times: dict[str, float] = {}
        with _timed(times, "to write"):
            for key in models.values():
                for shard in range(manifest.n_shards):
                    example = np.arange(512 * shard, min(512 * (shard + 1), n_examples))
                    clean = _made_up(rng, example, n_examples, n_classes).assign(perturbation=0.0, zero_gradient=False)
                    store.write(Unit(key, None, shard), clean)
                    for attack in attacks.values():
                        size = np.where(rng.random(len(clean)) < 0.3, 0, 4 / 255 + 1e-8 * rng.normal(size=len(clean)))
                        under = _made_up(rng, example, n_examples, n_classes).assign(
                            perturbation=size, zero_gradient=size == 0
                        )
                        store.write(Unit(key, attack.fingerprint, shard), under)
        blocks = sum(-(-path.stat().st_size // 4096) for path in Path(folder).rglob("*.parquet"))
        with _timed(times, "to seal"):
            store.seal()
        with _timed(times, "to verify"):
            acw.verify(folder)
        with _timed(times, "to read"):
            result = acw.read_audit(folder)
        asked = apart(__file__, "query", folder=folder)
        with _timed(times, "for summary"):
            result.summary()
        with _timed(times, "for worst case"):
            result.worst_case()
        with _timed(times, "for the page"):
            result.to_html(Path(folder) / "report.html")
    rows = n_models * n_attacks * n_examples
    sizes = {"models": n_models, "attacks": n_attacks, "n": n_examples, "rows": rows, "disk MB": blocks * 4096 / 1e6}
    return pd.DataFrame([{**sizes, "bytes per row": blocks * 4096 / rows, **times, **(asked or {})}])


@contextmanager
def _timed(times: dict[str, float], what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times[f"seconds {what}"] = time.perf_counter() - wall
    times[f"CPU seconds {what}"] = time.process_time() - cpu


def query(folder: str) -> dict[str, float]:
    """Ask DuckDB, on one thread, for the share of examples that withstood everything, by model and class.

    Args:
        folder: Of the store.

    Returns:
        Rows read, ``DuckDB groups`` of them, seconds, and by how much memory rose at most, in MiB.
    """
    import duckdb

    rows = f"read_parquet('{folder}/outcomes/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as connection, _Watch() as watch:
        connection.execute("SET threads = 1; SET enable_progress_bar = false")
        idle, began = _resident(), time.perf_counter()
        found = connection.execute(
            "SELECT model, label, avg(withstood::int) AS robust FROM (SELECT model, label, example, "
            f"bool_and(prediction = label) AS withstood FROM {rows} GROUP BY ALL) GROUP BY ALL"
        ).fetchall()
        seconds = time.perf_counter() - began
        peak = max(watch.peak, _highest())
        n = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return {
        "DuckDB rows": n[0] if n else 0,
        "DuckDB groups": len(found),
        "DuckDB seconds": seconds,
        "DuckDB MiB": (peak - idle) / 2**20,
    }


def _made_up(rng: np.random.Generator, example: np.ndarray, n_examples: int, n_classes: int) -> pd.DataFrame:
    label = example * n_classes // n_examples
    prediction = np.where(rng.random(len(example)) < 0.5, label, rng.integers(0, n_classes, len(example)))
    columns = {"example": example, "label": label, "prediction": prediction}
    costs = {"forwards": 20.0, "backwards": 10.0, "seconds": float(rng.random())}
    return pd.DataFrame({**columns, "margin": rng.normal(size=len(example)), **costs})


def measure_memory(n_images: int, side: int = 224, attacks: Sequence[str] = ("fgsm", "pgd-2")) -> pd.DataFrame:
    """Measure the memory that the audit of a folder of images takes above what its process has without it.

    Args:
        n_images: How many images; see :func:`make_images`.
        side: Their height and width.
        attacks: Names of ladders and attacks.

    Returns:
        One row. ``images MiB`` is what all of them would take at once as float32; ``idle MiB`` what was in memory once
        data set and network were there and it had computed an image; ``above idle MiB`` by how much that rose at most.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = make_images(Path(folder) / "images", n_images, side)
        measured = apart(__file__, "memory_of_audit", folder=str(Path(folder) / "images"), attacks=attacks)
    if measured is None:
        sys.exit("error: the audit didn't run")
    above = measured["peak MiB"] - measured["idle MiB"]
    row = {
        "n": n_images,
        "image": f"3 x {side} x {side}",
        "different files": files,
        "attacks": ", ".join(attacks),
        "images MiB": n_images * 3 * side * side * 4 / 2**20,
        **measured,
        "above idle MiB": above,
        "images / s": n_images / measured["seconds"],
        "below 1.5 GB": above * 2**20 < 1.5e9,
    }
    return pd.DataFrame([row])


def make_images(folder: Path, n_images: int, side: int, n_classes: int = 10, different: int = 100) -> int:
    """Write a folder of JPEG files, one subfolder per class; most of them are hard links of the first ones.

    Args:
        folder: To be made.
        n_images: How many, in equal parts of each class; at least one of each.
        side: Height and width.
        n_classes: How many classes.
        different: How many of the files are written, at most.

    Returns:
        How many were written.
    """
    from PIL import Image

    rng, written = np.random.default_rng(0), list[Path]()
    for k in range(n_classes):
        (folder / f"class{k}").mkdir(parents=True)
    for i in range(n_images):
        path = folder / f"class{i % n_classes}" / f"{i:08d}.jpg"
        if len(written) < different:
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)  # smooth, as photographs are to a JPEG decoder
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
            written.append(path)
            continue
        try:
            os.link(written[i % len(written)], path)
        except OSError:  # not every file system has links
            shutil.copyfile(written[i % len(written)], path)
    return len(written)


def memory_of_audit(folder: str, attacks: Sequence[str]) -> dict[str, float]:
    """Audit a tiny network on a folder of images, and watch the memory of this process.

    The network takes every image for the first class, whatever an attack does, and all labels say the same: so each
    attack goes on to its end on each image, which is the most that it can take.

    Args:
        folder: With one subfolder of images per class.
        attacks: Names of ladders and attacks.

    Returns:
        ``seconds``; ``idle MiB`` and ``peak MiB``, before and during the audit.
    """
    data = acw.load_dataset(folder)
    data = replace(data, y=np.zeros(len(data), dtype=np.int64))
    torch.manual_seed(0)
    head = nn.Linear(8, len(data.classes))
    with torch.no_grad():
        head.bias[0] += 100
    module = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    classifier = acw.as_classifier(module.eval(), data.input_shape, len(data.classes))
    with tempfile.TemporaryDirectory() as store:
        audit = acw.ClassWiseAudit(
            "Linf:2/255", attacks, store=Path(store) / "audit", seed=0, checks=False, verbose=False
        )
        classifier.predict(np.asarray(data.x[:1]))
        gc.collect()
        idle, highest = _resident(), _highest()
        with _Watch() as watch:
            began = time.perf_counter()
            audit.evaluate({"network": classifier}, data)
            seconds = time.perf_counter() - began
    # The system's own maximum has no gaps, but knows only what rose above all that was before.
    peak = max(watch.peak, _highest() if _highest() > highest else 0)
    return {"seconds": seconds, "idle MiB": idle / 2**20, "peak MiB": peak / 2**20}


class _Watch:
    """Looks at the memory of this process every 50 ms; ``peak`` is the most it saw, in bytes."""

    def __enter__(self) -> _Watch:
        self.peak, self._over = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    """Return the bytes of this process in memory; where the system doesn't tell, the most there ever were."""
    status = Path("/proc/self/status")
    if not status.exists():
        return _highest()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def _highest() -> int:
    """Return the most bytes of this process that were ever in memory."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    answer(memory_of_audit, query)
