from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise import cli
from art_classwise.quickstart import quickstart


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["art-classwise", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (exit_.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mine.pt"
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    acw.save_checkpoint(
        path, network, architecture="digits-cnn", classes=[str(d) for d in range(10)], input_shape=(1, 8, 8)
    )
    return path


def test_quickstart_as_a_user_runs_it(tmp_path):
    """The whole of it in a process of its own; its tables are read back from disk."""
    command = [sys.executable, "-W", "error", "-m", "art_classwise", "quickstart", "--out", "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "here"
    result = acw.read_audit(out)
    assert result.models == ("standard AT", "MART")
    assert result.attacks == ("fgsm", "pgd-20", "tpgd5-20")
    assert len(result.outcomes) == 2 * 3 * 797
    csv = pd.read_csv(out / "by_class.csv", dtype={"class": str})
    for model in result.models:
        table = result.class_table(model)
        # Both learned, both withstand, and the classes differ visibly: the intervals of best and worst are apart.
        assert table["clean"].min() > 0.9
        assert 0.7 < table["robust"].mean() < 0.97
        assert table.loc[table["robust"].idxmin(), "high"] < table.loc[table["robust"].idxmax(), "low"]
        assert (table["robust"] <= table["clean"]).all()
        saved = csv[(csv["model"] == model) & (csv["attack"] == "all attacks")].set_index("class")
        np.testing.assert_allclose(saved["robust"], table["robust"])
        assert f"{model}: accuracy in % at Linf:0.1, worst class first" in done.stdout
        lines = done.stdout.partition(f"{model}: accuracy")[2].splitlines()
        first_row = next(line for line in lines if line.strip()[:1].isdigit())
        assert first_row.split()[0] == table["robust"].idxmin()
    for name in ("report.html", "by_class.png", "by_class.csv", "outcomes.parquet"):
        assert (out / name).stat().st_size > 1000
        assert f"here{os.sep}{name}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "%|" in done.stderr  # progress while it worked
    assert acw.load_checkpoint(out / "mart.pt").nb_classes == 10


def test_quickstart_gives_the_same_numbers_each_time(tmp_path):
    """On any number of cores."""
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    results = []
    try:
        for n in (1, 4):
            torch.set_num_threads(n)
            results.append(quickstart(tmp_path / str(n), nb_epochs=2, verbose=False))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    first, again = results
    pd.testing.assert_frame_equal(first.outcomes, again.outcomes)
    other = quickstart(tmp_path / "c", nb_epochs=2, seed=1, verbose=False)
    assert not other.outcomes["margin"].equals(first.outcomes["margin"])
    assert torch.equal(torch.get_rng_state(), random_state)


def test_train_audit_report(run, tmp_path):
    for method in ("standard", "mart"):
        code, out, _ = run("train", method, "--epochs", 2, "--threat", "Linf:0.1", "--out", f"m/{method}.pt", "--quiet")
        assert code == 0
        assert f"checkpoint  m{os.sep}{method}.pt" in out
    assert acw.read_checkpoint(tmp_path / "m" / "mart.pt").recipe["beta"] == 5.0
    code, out, err = run(
        *("audit", "--model", "m/standard.pt", "--model", "second=m/mart.pt", "--threat", "Linf:0.1"),
        *("--attacks", "fgsm, margin-5", "--examples", 100, "--class", 3, "--class", 8, "--out", "runs/a", "--quiet"),
    )
    assert (code, err) == (0, "")
    result = acw.read_audit("runs/a")
    assert result.models == ("standard", "second")
    assert result.attacks == ("fgsm", "margin-5")
    assert result.class_table("second").query("n > 0").index.tolist() == ["3", "8"]
    assert result.info["command"].startswith("art-classwise audit --model m/standard.pt")
    before = (tmp_path / "runs" / "a" / "report.html").read_text()
    code, again, _ = run("report", "runs/a")
    assert (code, again) == (0, out)
    assert (tmp_path / "runs" / "a" / "report.html").read_text() == before
    assert "art-classwise audit --model m/standard.pt" in before


def test_options_reach_what_they_set(run, checkpoint, tmp_path):
    for seed in (0, 5):
        options = ("--attacks", "pgd-1", "--examples", 40, "--threat", "Linf:0.2", "--seed", seed, "--quiet")
        assert run("audit", "--model", checkpoint, *options, "--out", f"s{seed}")[0] == 0
    first, other = acw.read_audit("s0"), acw.read_audit("s5")
    assert (first.info["seed"], other.info["seed"]) == (0, 5)
    assert not first.outcomes["margin"].equals(other.outcomes["margin"])
    losses = set()
    for option in (("--steps", 1), ("--steps", 9), ("--lr", 0.2), ("--batch-size", 50), ("--seed", 3), ("--beta", 0)):
        code, out, err = run(
            "train", "mart", "--epochs", 1, "--threat", "Linf:0.1", "--out", "x.pt", "--quiet", *option
        )
        assert code == 0, err
        losses.add(out.splitlines()[0])
        assert acw.read_checkpoint("x.pt").recipe[option[0][2:].replace("-", "_")] == option[1]
    assert len(losses) == 6


def test_a_path_with_an_equals_sign_is_a_path(run, checkpoint, tmp_path):
    (tmp_path / "lr=0.1").mkdir()
    for path in ("lr=0.1.pt", "lr=0.1/x.pt"):
        (tmp_path / path).write_bytes(checkpoint.read_bytes())
        assert run("audit", "--model", path, "--examples", 10, "--quiet", "--out", "r")[0] == 0
        assert acw.read_audit("r").models == (Path(path).stem,)


def test_warnings_are_one_line(run, checkpoint, monkeypatch, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(1))
    classifier = acw.as_classifier(network, (1, 8, 8), 10)
    monkeypatch.setattr("art_classwise.zoo.load_checkpoint", lambda path: classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as a user's interpreter has it
        code, _, err = run("audit", "--model", checkpoint, "--examples", 10, "--quiet")
    assert code == 0
    assert err.startswith("warning: The model seems to return probabilities.")
    assert err.count("\n") == 1


def test_audit_of_robustbench_on_own_npz(run, tmp_path, monkeypatch):
    from art_classwise.zoo import robustbench

    asked = []

    def load(*arguments, unsafe_weights):
        asked.append((arguments, unsafe_weights))
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        return acw.as_classifier(network, (3, 32, 32), 10)

    monkeypatch.setattr("art_classwise.zoo.load_robustbench", load)
    assert robustbench
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "my.npz", x=rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), y=rng.integers(0, 10, 12))
    code, out, err = run(
        *("audit", "--model", "robustbench:cifar10/Wong2020Fast", "--dataset", "my.npz", "--class-names", "cifar10"),
        *("--quiet", "--unsafe-weights", "--threat", "Linf:8/255"),
    )
    assert code == 0, err
    assert asked == [(("Wong2020Fast", "cifar10", "Linf", Path("models")), True)]
    assert "airplane" in out


BAD = [
    (("audit", "--model", "{ckpt}", "--dataset", "cifar11"), "Unknown data set 'cifar11'. Did you mean cifar10"),
    (("audit", "--model", "mien"), "Unknown model 'mien'. Give the file of a checkpoint"),
    (("audit", "--model", "mine.pt"), "There is no file"),
    (("audit", "--model", ""), "Unknown model ''"),
    (("audit", "--model", "{ckpt}", "--class", "²"), "Unknown class '²'"),
    (("audit", "--model", "{ckpt}", "--image-size", "8"), "image size: they can't be given"),
    (("train", "standard", "--beta", "3", "--out", "x.pt"), "--beta is a parameter of mart; standard has none"),
    (("train", "mart", "--seed", "99999999999999999999", "--out", "x.pt"), "`seed` must be below 2**63"),
    (("audit", "--model", "robustbench:digits/Wong"), "Unknown RobustBench data set 'digits'"),
    (("audit", "--model", "robustbench:cifar10/Wong2020"), "Did you mean Wong2020Fast"),
    (("audit", "--model", "{ckpt}", "--attacks", "pdg-20"), "Unknown attack 'pdg-20'. Did you mean pgd-20"),
    (("audit", "--model", "{ckpt}", "--attacks", "fgsm,"), "Unknown attack ''"),
    (("audit", "--model", "{ckpt}", "--class", "cat"), "Unknown class 'cat'. Known: 0, 1, 2"),
    (("audit", "--model", "{ckpt}", "--threat", "Linf:-0.1"), "above 0"),
    (("audit", "--model", "{ckpt}", "--threat", "Linf:0"), "above 0"),
    (("audit", "--model", "{ckpt}", "--threat", "Linf:nan"), "finite number above 0"),
    (("audit", "--model", "{ckpt}", "--threat", "Linf:8"), 'did you mean "Linf:8/255"'),
    (("audit", "--model", "{ckpt}", "--threat", "L3:8"), "Unknown norm 'L3'"),
    (("audit", "--model", "{ckpt}", "--examples", "0"), "at least 1"),
    (("audit", "--model", "{ckpt}", "--examples", "1000"), "has 797 examples"),
    (("audit", "--model", "{ckpt}", "--model", "{ckpt}"), "Two models are named 'mine'"),
    (("audit", "--model", "{ckpt}", "--out", "file/runs"), "can't be written"),
    (("audit", "--model", "{ckpt}", "--batch-size", "0"), "`batch_size`"),
    (("audit", "--model", "{ckpt}", "--dataset", "outside.npz"), r"Pixels must lie in [0, 1]"),
    (("audit", "--model", "{ckpt}", "--dataset", "nan.npz"), "not finite"),
    (("audit", "--model", "{ckpt}", "--dataset", "length.npz"), "4 examples, but 3 labels"),
    (("audit", "--model", "{ckpt}", "--dataset", "label.npz"), "outside the 10 classes"),
    (("audit", "--model", "{ckpt}", "--dataset", "empty.npz"), "is empty"),
    (("audit", "--model", "{ckpt}", "--dataset", "shape.npz", "--threat", "L2:1"), "takes images of shape (1, 8, 8)"),
    (("audit", "--model", "{ckpt}", "--dataset", "shape.npz"), "Give a threat model (--threat"),
    (("audit", "--model", "{ckpt}", "--attacks", "blackbox"), "needs a model to transfer from"),
    (("audit", "--model", "{ckpt}", "--attacks", "pgd20"), "Unknown attack 'pgd20'. Did you mean pgd-20"),
    (("audit", "--model", "{ckpt}", "--precision", "fp16"), "fp16"),
    (("audit", "--model", "other.pt"), "of another architecture than the architecture 'digits-cnn'"),
    (("quickstart", "--out", "file"), "can't be written"),
    (("quickstart", "--seed", "-1"), "`seed`"),
    (("train", "mart", "--out", "file/x.pt"), "can't be written"),
    (("train", "mart", "--out", "."), "must be a file"),
    (("train", "mart", "--out", "x.pt", "--arch", "resnet19"), "Did you mean resnet18"),
    (("train", "mart", "--out", "x.pt", "--arch", "resnet18"), "colour images of 32 x 32"),
    (("train", "mart", "--out", "x.pt", "--epochs", "0"), "`nb_epochs`"),
    (("train", "mart", "--out", "x.pt", "--lr", "nan"), "--lr must be"),
    (("train", "mart", "--out", "x.pt", "--beta", "-1"), "`beta`"),
    (("train", "mart", "--out", "x.pt", "--threat", "Linf:8"), 'did you mean "Linf:8/255"'),
    (("train", "mrt", "--out", "x.pt"), "mrt"),
    (("report", "nowhere"), "holds no audit"),
    (("audti",), "audti"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(run, checkpoint, tmp_path, arguments, says):
    (tmp_path / "file").write_text("in the way")
    x, y = np.random.default_rng(0).random((4, 8, 8)), np.arange(4)
    names = np.array([str(d) for d in range(10)])
    for name, arrays in {
        "outside": (x * 255, y),
        "nan": (x * np.nan, y),
        "length": (x, y[:3]),
        "label": (x, y + 8),
        "empty": (x[:0], y[:0]),
        "shape": (x[:, :5], y),
    }.items():
        np.savez(tmp_path / f"{name}.npz", x=arrays[0], y=arrays[1], classes=names)
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {"weight": torch.zeros(3)}
    torch.save(content, tmp_path / "other.pt")
    code, out, err = run(*[a.format(ckpt=checkpoint) for a in arguments])
    assert code == 2
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    if not err.lstrip().startswith("Usage"):  # typer's own words for a mistyped command or choice
        message = err.splitlines()[-1]
        assert message.startswith("error: ")
        assert [line for line in err.splitlines() if line.startswith("error")] == [message]


def test_help_lists_the_commands_and_version_is_said(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("quickstart", "train", "audit", "report"):
        assert command in out
    assert run("--version")[1].strip() == f"art-classwise {acw.__version__}"
    assert run()[0] in (0, 2)  # no command: the help


def test_module_is_runnable():
    done = subprocess.run([sys.executable, "-m", "art_classwise", "--version"], capture_output=True, check=True)
    assert acw.__version__ in done.stdout.decode()


def test_divergence_and_a_failing_disk_are_sentences_too(run, checkpoint, monkeypatch):
    code, _, err = run("train", "mart", "--out", "x.pt", "--lr", "1e30", "--epochs", "2", "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "error: The loss became" in err

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    code, _, err = run("audit", "--model", checkpoint, "--examples", "10", "--quiet")
    assert (code, err) == (1, "error: [Errno 28] No space left on device\n")


def test_a_bug_of_ours_keeps_its_traceback(run, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("art_classwise.quickstart.quickstart", broken)
    with pytest.raises(ZeroDivisionError):
        run("quickstart")
