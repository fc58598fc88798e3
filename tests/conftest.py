"""What several test files share."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import types
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise._core.forward import MicroBatches

collect_ignore = ["support"]  # what tests import by plain names: collected for doctests, it would be imported twice

SHARED = Path(os.environ.get("ART_CLASSWISE_SHARED", Path(__file__).parents[2] / "shared"))

os.environ["COLUMNS"] = "80"  # the terminal that tables are printed for


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: the garbage collector needn't go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests: as the last ones they would leave the other processes without work."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks gain nothing from a second one, and lose much where another process has the core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_figures_left():
    """What a test leaves in pyplot would be the next one's."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and published networks, which are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data and checkpoints at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def mnist_root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST as torchvision reads it."""
    import gzip

    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (shared / "data" / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return root


@pytest.fixture(scope="session")
def cifar10(shared: Path) -> acw.Dataset:
    """The first 1,000 test images: the first tiles of the mosaic, which is 100 wide."""
    from PIL import Image

    with Image.open(shared / "data" / "cifar10" / "test.webp") as mosaic:
        rows = np.asarray(mosaic.convert("RGB").crop((0, 0, 3200, 320)))
    x = rows.reshape(10, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32).astype(np.float32) / 255
    y = np.load(shared / "data" / "cifar10" / "labels.npz")["test_y"][:1000]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return acw.Dataset(np.ascontiguousarray(x), y.astype(np.int64), classes, name="cifar10")


@pytest.fixture(scope="session")
def published(shared: Path):
    """Loads a published network by name: see evaluations/lib/published.py."""
    load_published = script("published").load_published
    return lambda name: load_published(name, shared / "checkpoints", device="cpu")


EVALUATIONS = Path(__file__).parents[1] / "evaluations"


def script(name: str) -> ModuleType:
    """A script of evaluations/, found by name in its folder, as a module; those in lib/ are called lib.NAME."""
    (path,) = [*EVALUATIONS.glob(f"{name}.py"), *EVALUATIONS.glob(f"*/{name}.py")]
    name = f"lib.{name}" if path.parent.name == "lib" else name
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(EVALUATIONS), *sys.path])  # where it finds its neighbours, whoever loads it
        patched.setitem(sys.modules, name, module)  # where its dataclasses look their types up
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch):
    """Loads a script of evaluations/ by name."""
    monkeypatch.setattr(sys, "path", [str(EVALUATIONS), *sys.path])  # the scripts put their own folders there, too

    def load(name: str) -> ModuleType:
        full = f"lib.{name}" if (EVALUATIONS / "lib" / f"{name}.py").is_file() else name
        monkeypatch.setitem(sys.modules, full, ModuleType(full))  # dataclasses look there
        module = script(name)
        monkeypatch.setitem(sys.modules, full, module)
        return module

    return load


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    from art_classwise import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["art-classwise", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (exit_.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def digits() -> acw.Dataset:
    return acw.load_dataset("digits", "test")


@pytest.fixture(scope="session")
def train_set() -> acw.Dataset:
    return acw.load_dataset("digits", "train").first(400)


@pytest.fixture
def network() -> nn.Module:
    """A small smooth network for images (3, 6, 6), 4 classes, with every kind of state."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 4)
    ).eval()


@pytest.fixture
def classifier(network: nn.Module):
    return acw.as_classifier(network, (3, 6, 6), 4, device="cpu")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples a network was asked about, in each pass: not what a pass is filled up with."""
    sizes: list[int] = []
    forward = MicroBatches.forward
    monkeypatch.setattr(MicroBatches, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    return sizes


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((16, 3, 6, 6), dtype=np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, 16)


@pytest.fixture
def own(classifier, images: np.ndarray) -> np.ndarray:
    """The network's own predictions, as labels that it gets right."""
    return classifier.predict(images).argmax(1)


@pytest.fixture
def data(images: np.ndarray) -> acw.Dataset:
    """Sixteen examples of four classes, none of them of the last."""
    y = np.random.default_rng(3).integers(0, 3, 16)
    return acw.Dataset(images, y, ("ant", "bee", "cow", "doe"), ids=np.arange(100, 116))


@pytest.fixture
def result(classifier, data: acw.Dataset) -> acw.AuditResult:
    return acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-20"), verbose=False).evaluate({"net": classifier}, data)


@pytest.fixture
def bad_weights(tmp_path: Path) -> list[tuple[Path, str]]:
    """Files that are no weights to be loaded, and what an error must say of each."""
    folder = tmp_path / "bad"
    folder.mkdir()
    files = {
        "page.pt": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "empty.pt": b"",
        "text.pt": b"hello, this is no checkpoint",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    torch.save({"a": torch.zeros(50_000)}, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:9000])
    torch.save({"args": types.SimpleNamespace(lr=0.1)}, folder / "more.pt")
    torch.save({"a": torch.zeros(3)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "legacy_cut.pt").write_bytes((folder / "legacy.pt").read_bytes()[:100])
    cases = [
        ("page.pt", "holds a web page"),
        ("empty.pt", "is empty"),
        ("text.pt", "not a file of torch weights .it begins with b'hello"),
        ("cut.pt", "is cut short"),
        ("more.pt", "holds more than weights"),
        ("legacy_cut.pt", "damaged"),
        ("missing.pt", "There is no file"),
        ("legacy.pt", "holds weights, but not of which network"),
    ]
    return [(folder / name, says) for name, says in cases]
