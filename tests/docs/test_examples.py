"""The notebooks and scripts of examples/: they run at small size, and what is stored in them is fit to be shown."""

import difflib
import importlib.util
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from places import ROOT

import art_classwise as acw

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# What makes them small; {} in none: each has parameters.
SMALL = {
    "1_audit_in_five_minutes": {"nb_epochs": 8, "n_examples": 300, "attacks": ("fgsm", "pgd-3")},
    "2_train_mart": {"nb_epochs": 2, "n_examples": 60},
    "3_robustbench_beside_your_own": {
        "leaderboard": ("Wong2020Fast", "Rice2020Overfitting"),
        "n_examples": 10,
        "attacks": ("fgsm",),
        "n_train": 300,
        "nb_epochs": 1,
    },
    "4_why_is_cat_weak": {"n_train": 300, "nb_epochs": 12, "warm_epochs": 1, "n_examples": 100, "n_reach": 20},
    "5_repair_the_worst_class": {
        "nb_epochs": 6,
        "batch_size": 16,  # many steps: rho needs a worst class above 0
        "seeds": (0, 1),
        "n_train": 400,
        "n_examples": 100,
    },
}


@pytest.fixture(scope="module")
def examples():
    """examples/execute.py as a module."""
    spec = importlib.util.spec_from_file_location("execute", EXAMPLES / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what notebooks look for: images like CIFAR-10's, weights of the leaderboard; no download.

    Each class has a colour; those of cat and dog are close, and dogs are many: so a network learns colours at once, and
    takes cats for dogs. Of the leaderboard's two, one has (random) weights and one a page that a download met.
    """
    random = np.random.default_rng(0)
    colours = random.random((10, 3)) * 0.8 + 0.1
    colours[5] = colours[3] + 0.02
    for split, n in (("train", 300), ("test", 100)):
        y = np.resize([*range(10), 5, 5], n)
        x = colours[y][:, None, None] + random.normal(0, 0.03, (n, 32, 32, 3))
        path = tmp_path / "data" / f"cifar10_{split}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, x=(255 * x.clip(0, 1)).astype(np.uint8), y=y)
    weights, page = (
        next(iter(acw.zoo.robustbench_files(name, model_dir=tmp_path / "models")))
        for name in ("Wong2020Fast", "Rice2020Overfitting")
    )
    weights.parent.mkdir(parents=True)
    torch.save(acw.build("preactresnet18", (3, 32, 32), 10, seed=0).state_dict(), weights)
    page.write_text("<html>Quota exceeded</html>")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernels
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return tmp_path


def test_every_notebook_has_a_small_size():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


def code(notebook):
    """The code cells that were written, without the one that sets parameters."""
    return [
        c for c in notebook.cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])
    ]


def kinds(cell):
    """The media types of what a cell showed: text/html of a table, image/png of a picture."""
    return {kind for output in cell.outputs for kind in output.get("data", {})}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_errors_and_warnings(path, examples, folder):
    notebook = examples.execute(path, SMALL[path.stem], folder=folder, timeout=200)
    assert examples.complaints(notebook) == []
    ends = {cell.source.splitlines()[-1].split("(")[0]: cell.outputs for cell in notebook.cells if "outputs" in cell}
    for drawn in (outputs for end, outputs in ends.items() if "acw.figures." in end):
        assert any("image/png" in output.get("data", {}) for output in drawn)
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    if path.stem.startswith("3"):
        assert "Continuing without 'Rice2020Overfitting'" in shown
        assert "Continuing without 'Wong2020Fast'" not in shown
        assert acw.read_audit(folder / "runs" / "beside-10").models == ("mine", "natural ResNet-18", "Wong2020Fast")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_fit_to_be_shown(path, examples):
    assert path.stat().st_size < 700_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert examples.complaints(notebook) == []
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))  # run once, from top to bottom
    assert set(notebook.metadata) == {"kernelspec"}
    assert set(notebook.metadata.kernelspec) == {"name", "display_name", "language"}
    assert [cell.metadata for cell in notebook.cells if cell.metadata] == [{"tags": ["parameters"]}]
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert [
        output for cell in cells if cell.source == "result" for output in cell.outputs if "text/html" not in output.data
    ] == []
    links = re.findall(
        r"\]\((?!https?:)([^)#]+)", "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    )
    assert [link for link in links if not (EXAMPLES / link).exists()] == []


FIGURE = "from matplotlib.figure import Figure; Figure()"  # without pyplot, nothing tells the kernel how to show it


def test_a_notebook_that_should_not_be_stored_is_not(examples, tmp_path, capsys):
    sources = ["a = 1", "import warnings; warnings.warn('odd'); print('/home/me/data', a)", FIGURE]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path / "odd.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    assert examples.main([str(path), "--parameters", "a=2", "--folder", str(tmp_path)]) == 1
    assert path.read_bytes() == before
    said = capsys.readouterr().err
    assert "holds the path /home/me/data" in said
    assert "UserWarning: odd" in said
    assert "names a figure and doesn't show it" in said
    with pytest.raises(ValueError, match="no parameter 'b': it has a"):
        examples.execute(path, {"b": 1})


def test_parameters_and_the_folder(examples, tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("a, b = 1, 'x'", "import os; print(a, b, os.getcwd())")]
    cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path / "some.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert examples.main([str(path), "--parameters", "a=(1, 2)", "b=two", "--folder", str(tmp_path)]) == 0
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].text == "(1, 2) two .\n"


OURS = (EXAMPLES / "art_drop_in.py").read_text(encoding="utf-8")
ARTS = re.sub(r"^# ART: (.*)\n.*\n", r"# \n\1\n", OURS, flags=re.M)
"""The script in which each line after a comment "# ART: ..." has given way to what that says."""


def test_two_lines_of_arts_example_change():
    lines = re.sub(r"^# ART: .*\n", "# \n", OURS, flags=re.M).splitlines(), ARTS.splitlines()
    changed = [line[2:] for line in difflib.ndiff(lines[1], lines[0]) if line[0] in "-+"]
    assert len(changed) == 4  # two went, two came
    assert [("art_classwise" in line or "MART" in line) for line in changed] == [False, True, False, True]
    assert "art_classwise" not in ARTS.partition('"""\n\n')[2]


@pytest.mark.parametrize(
    "source", [pytest.param(ARTS, id="ART", marks=pytest.mark.slow), pytest.param(OURS, id="art-classwise")]
)
@pytest.mark.slow
def test_the_script_runs_with_arts_trainer_and_with_ours(source, tmp_path):
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py", "--epochs", "2", "--examples", "100"],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300},
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Accuracy on benign test examples: [\d.]+%\nAccuracy on adversarial test examples: ", done.stdout)
    assert len(re.findall(r"^  \d: [\d.]+%$", done.stdout, flags=re.M)) == 10
