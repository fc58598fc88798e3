from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise.quickstart import quickstart
from art_classwise.trainers import METHODS, trained_weights
from art_classwise.trainers.engine.checkpoint import TrainingFile


@pytest.fixture
def run(command_line):
    return command_line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mine.pt"
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    acw.save_checkpoint(
        path, network, architecture="digits-cnn", classes=[str(d) for d in range(10)], input_shape=(1, 8, 8)
    )
    return path


@pytest.mark.slow
def test_quickstart_as_a_user_runs_it(tmp_path):
    """The whole of it in a process of its own; its tables are read back from disk."""
    command = [sys.executable, "-W", "error", "-m", "art_classwise", "quickstart", "--out", "here"]
    environment = {**os.environ, "TQDM_DISABLE": "0"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
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
        assert table.loc[table["robust"].idxmin(), "robust_high"] < table.loc[table["robust"].idxmax(), "robust_low"]
        assert (table["robust"] <= table["clean"]).all()
        saved = csv[(csv["model"] == model) & (csv["attack"] == "all attacks")].set_index("class")
        np.testing.assert_allclose(saved["robust"], table["robust"])
        assert f"{model}: accuracy in % at Linf:0.1, worst class first" in done.stdout
        lines = done.stdout.partition(f"{model}: accuracy")[2].splitlines()
        first_row = next(line for line in lines if line.strip()[:1].isdigit())
        assert first_row.split()[0] == table["robust"].idxmin()
    for name in ("report.html", "by_class.png", "by_class.csv", "outcomes"):
        assert (out / name).stat().st_size > 1000
        assert f"here{os.sep}{name}" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if str(out) not in line) <= 80  # paths stay whole
    for last in ("Standard  100%  epoch 30/30", "MART  100%  epoch 30/30", "audit  100%  MART, tpgd5-20"):
        assert last in done.stderr  # progress while it worked, a line for each epoch and unit
    verified = acw.verify(out)
    assert verified.ok, str(verified)
    assert f"root: {verified.root}" in done.stdout
    assert acw.load_checkpoint(out / "mart.pt").nb_classes == 10


@pytest.mark.slow
def test_quickstart_gives_the_same_numbers_each_time(tmp_path, monkeypatch):
    """On any number of cores; here of fewer digits."""
    module = importlib.import_module("art_classwise.quickstart")
    monkeypatch.setattr(module, "load_dataset", lambda *name: acw.load_dataset(*name).first(300))
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    results = []
    try:
        for n in (1, 4):
            torch.set_num_threads(n)
            results.append(quickstart(tmp_path / str(n), nb_epochs=1, verbose=False))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    first, again = results
    pd.testing.assert_frame_equal(first.outcomes, again.outcomes)
    other = quickstart(tmp_path / "c", nb_epochs=1, seed=1, verbose=False)
    assert not other.outcomes["margin"].equals(first.outcomes["margin"])
    assert torch.equal(torch.get_rng_state(), random_state)


def test_train_audit_report(run, tmp_path):
    for method in ("standard", "trades", "mart"):
        code, out, _ = run("train", method, "--epochs", 2, "--threat", "Linf:0.1", "--out", f"m/{method}.pt", "--quiet")
        assert code == 0
        assert "After 2 epochs: loss " in out
        for what, name in (("checkpoint", "pt"), ("history", "csv"), ("training", "training")):
            assert f"{what:<10}  m{os.sep}{method}.{name}" in out
        assert pd.read_csv(tmp_path / "m" / f"{method}.csv")["epoch"].tolist() == [1, 2]
    recipe = acw.zoo.read_checkpoint(tmp_path / "m" / "mart.pt").recipe
    assert recipe["beta"] == 5.0
    assert (recipe["recipe"], recipe["method"], recipe["dataset"], recipe["epoch"]) == ("plain", "mart", "digits", 2)
    code, out, err = run(
        *("audit", "--model", "m/standard.pt", "--model", "second=m/mart.pt", "--threat", "Linf:0.1"),
        *("--attacks", "fgsm, margin-5", "--examples", 100, "--class", 3, "--class", 8, "--out", "runs/a", "--quiet"),
    )
    assert (code, err) == (0, "")
    result = acw.read_audit("runs/a")
    assert result.models == ("standard", "second")
    assert result.attacks == ("fgsm", "margin-5")
    assert result.class_table("second").query("n > 0").index.tolist() == ["3", "8"]
    assert result.manifest.command.startswith("art-classwise audit --model m/standard.pt")
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
    assert (first.manifest.seed, other.manifest.seed) == (0, 5)
    assert not first.outcomes["margin"].equals(other.outcomes["margin"])
    losses = set()
    options = (("--steps", 1), ("--steps", 9), ("--lr", 0.2), ("--batch-size", 50), ("--seed", 3), ("--beta", 0))
    for i, option in enumerate((*options, ("--awp", 0.01), ("--validation", 100))):
        code, out, err = run(
            "train", "mart", "--epochs", 1, "--threat", "Linf:0.1", "--out", f"{i}.pt", "--quiet", *option
        )
        assert code == 0, err
        losses.add(out.splitlines()[0])
        assert acw.zoo.read_checkpoint(f"{i}.pt").recipe[option[0][2:].replace("-", "_")] == option[1]
    assert len(losses) == 8


@pytest.fixture
def stopped(run, monkeypatch):
    """Run `train` up to the call of fit: what the trainer and fit were given."""

    def call(method, *arguments):
        given = {}

        class Stub:
            def __init__(self, classifier, **options):
                given.update(options, optimizer=classifier.optimizer)

            def fit(self, x, y, **options):
                given.update(options, n=len(x))
                raise acw.InputError("stopped")

        monkeypatch.setitem(METHODS, method, SimpleNamespace(**{**vars(METHODS[method]), "trainer": Stub}))
        code, _, err = run("train", method, "--out", "x.pt", *arguments)
        assert code == 2
        assert err.splitlines()[-1] == "error: stopped"
        given["said"] = " ".join(err.split())
        return given

    return call


def test_trainer_and_fit_get_what_is_asked_for(stopped):
    plain = stopped("standard")
    assert (plain["eps"], plain["eps_step"], plain["max_iter"], plain["seed"]) == (0.1, None, 10, 0)  # as in audits
    assert (plain["batch_size"], plain["nb_epochs"], plain["scheduler_interval"]) == (128, 30, "epoch")
    assert (plain["keep"], plain["validation_data"], plain["resume"]) == ("last", None, False)
    assert (plain["ema_decay"], plain["awp_gamma"], plain["precision"], plain["compile"]) == (None, 0, "auto", False)
    assert (plain["summary_writer"], plain["num_workers"], plain["verbose"]) == (False, 0, True)
    assert (plain["crop_padding"], plain["flip"], plain["n"]) == (0, False, 1000)
    assert plain["checkpoint_dir"] == Path("x.training")
    assert "beta" not in plain
    asked = stopped(
        *("trades", "--epochs", 3, "--batch-size", 32, "--lr", 0.3, "--threat", "L2:0.5", "--steps", 4, "--beta", 2),
        *("--validation", 90, "--ema", 0.9, "--awp", 0.005, "--precision", "bf16", "--compile", "--workers", 2),
        *("--tensorboard", "logs", "--resume", "--seed", 7, "--quiet"),
    )
    assert (asked["norm"], asked["eps"], asked["max_iter"], asked["beta"]) == (2, 0.5, 4, 2)
    assert (asked["batch_size"], asked["nb_epochs"], asked["n"]) == (32, 3, 910)
    assert asked["optimizer"].param_groups[0]["initial_lr"] == 0.3
    assert (asked["keep"], len(asked["validation_data"][0]), asked["resume"]) == ("robust", 90, True)
    assert (asked["ema_decay"], asked["awp_gamma"]) == (0.9, 0.005)
    assert (asked["precision"], asked["compile"]) == ("bf16", True)
    assert (asked["summary_writer"], asked["num_workers"]) == ("logs", 2)
    assert (asked["seed"], asked["verbose"]) == (7, False)
    assert stopped("mart", "--validation", 90, "--keep", "robust+worst")["keep"] == "robust+worst"
    assert stopped("mart", "--validation", 90, "--keep", "last")["keep"] == "last"


def test_recipes_and_what_replaces_their_options(stopped, tmp_path):
    fast = stopped("mart", "--recipe", "fast")
    assert (fast["eps"], fast["nb_epochs"], fast["beta"], fast["exact"]) == (0.1, 30, 5, False)
    assert fast["scheduler_interval"] == "step"
    assert fast["scheduler"].total_steps == 30 * 8
    assert fast["compile"] is torch.cuda.is_available()
    assert stopped("mart", "--recipe", "fast", "--no-compile")["compile"] is False
    held_out = stopped("mart", "--recipe", "fast", "--epochs", 5, "--validation", 200)
    assert held_out["scheduler"].total_steps == 5 * 7
    # A file with the name of a data set is taken for it, as in audits.
    x = np.zeros((8, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "mnist.npz", x=x, y=np.arange(8), classes=np.array([str(d) for d in range(10)]))
    mnist = ("--dataset", "mnist.npz", "--arch", "mnist-cnn", "--recipe", "paper")
    paper = stopped("trades", *mnist)
    assert (paper["eps"], paper["eps_step"], paper["max_iter"], paper["beta"]) == (0.3, 0.01, 40, 1.0)
    assert (paper["nb_epochs"], paper["optimizer"].param_groups[0]["lr"]) == (100, 0.01)
    assert stopped("mart", *mnist)["exact"] is True
    other = stopped("trades", *mnist, "--threat", "Linf:0.2", "--epochs", 2, "--lr", 0.1, "--batch-size", 4)
    assert (other["eps"], other["eps_step"], other["max_iter"]) == (0.2, None, 40)
    assert (other["nb_epochs"], other["batch_size"], other["optimizer"].param_groups[0]["lr"]) == (2, 4, 0.1)


def cifar(folder, n=500):
    """Ten images of each of ten classes under the name of CIFAR-10."""
    np.savez(folder / "cifar10.npz", x=np.zeros((n, 3, 32, 32), np.uint8), y=np.arange(n) % 10)
    return ("--dataset", "cifar10.npz")


def test_a_recipe_sets_policy_averages_and_validation(stopped, tmp_path):
    data = (*cifar(tmp_path), "--arch", "preactresnet18")
    cfa = stopped("standard", *data, "--recipe", "paper:cfa")
    assert isinstance(cfa["class_policy"], acw.policies.CFA)
    assert (cfa["attack_mode"], cfa["passes"], cfa["keep"]) == ("train", "a|c", "robust+worst")
    assert (len(cfa["validation_data"][0]), cfa["n"]) == (10, 490)  # 2 % of 500
    assert "Recipe paper:cfa: Wei et al., CVPR 2023" in cfa["said"]
    assert "(not verified: learning rate and its decays, " in cfa["said"]
    awp = stopped("standard", *data, "--recipe", "paper:awp")
    assert (awp["awp_gamma"], awp["validation_data"], awp["keep"]) == (0.01, None, "last")
    assert awp["said"].count("Recipe paper:awp: Wu et al., NeurIPS 2020") == 1
    cfol = stopped("standard", *data, "--recipe", "PAPER:cfol", "--validation", 20, "--keep", "last")
    assert (cfol["class_balanced"], len(cfol["validation_data"][0]), cfol["keep"]) == (True, 20, "last")
    # What is given besides replaces it.
    other = stopped(
        *("standard", *data, "--recipe", "paper:cfa", "--class-policy", "wat", "--awp", 0.002, "--ema", 0.9),
        *("--option", "attack_mode=eval", "--option", "passes=ca", "--option", "label-smoothing=1/10"),
    )
    assert isinstance(other["class_policy"], acw.policies.WAT)
    assert (other["awp_gamma"], other["ema_decay"], other["label_smoothing"]) == (0.002, 0.9, 0.1)
    assert (other["attack_mode"], other["passes"]) == ("eval", "ca")
    assert "changed: ema_decay, awp_gamma, attack_mode, passes, label_smoothing, class_policy)." in other["said"]
    assert "Recipe" not in stopped("standard", *data, "--recipe", "paper", "--quiet")["said"]
    assert "Recipe" not in stopped("standard")["said"]


def test_a_recipe_that_fine_tunes_asks_for_a_network(run, stopped, tmp_path):
    data = (*cifar(tmp_path), "--arch", "preactresnet18", "--recipe", "paper:frl")
    code, _, err = run("train", "trades", *data, "--out", "x.pt")
    says = "error: The recipe paper:frl fine-tunes a robust network: give its checkpoint as --init, e.g. --init"
    assert (code, err) == (2, f"{says} trades.pt.\n")
    network = acw.build("preactresnet18", (3, 32, 32), 10, seed=0)
    names = [str(k) for k in range(10)]
    acw.save_checkpoint("robust.pt", network, architecture="preactresnet18", classes=names, input_shape=(3, 32, 32))
    frl = stopped("trades", *data, "--init", "robust.pt")
    assert (frl["beta"], frl["nb_epochs"], frl["optimizer"].param_groups[0]["lr"]) == (1.5, 40, 1e-3)
    assert (frl["class_policy"].normalize, len(frl["validation_data"][0])) == (True, 30)


def test_options_of_the_trainer(stopped):
    given = ("weighted=misclassified", "misclassified_attack=none", "exact=true", "friendly_tau=1", "eps-step=1/50")
    mart = stopped("mart", *(word for text in given for word in ("--option", text)))
    assert (mart["weighted"], mart["misclassified_attack"], mart["exact"]) == ("misclassified", "none", True)
    assert (mart["friendly_tau"], mart["eps_step"]) == (1, 0.02)


def test_options_of_the_trainer_are_saved(run):
    code, _, err = run(
        *("train", "mart", "--epochs", 1, "--threat", "Linf:0.1", "--steps", 1, "--examples", 60, "--quiet"),
        *("--option", "misclassified_attack=cw", "--out", "cw.pt"),
    )
    assert code == 0, err
    recipe = acw.zoo.read_checkpoint("cw.pt").recipe
    assert (recipe["misclassified_attack"], recipe["exact"]) == ("cw", False)


def test_the_recipe_is_saved_and_said(run, tmp_path):
    code, out, err = run("train", "trades", "--recipe", "fast", "--epochs", 2, "--out", "fast.pt", "--quiet")
    assert code == 0, err
    saved = acw.zoo.read_checkpoint("fast.pt")
    assert saved.threat == acw.ThreatModel("Linf", 0.1)
    assert (saved.recipe["recipe"], saved.recipe["schedule"], saved.recipe["lr"]) == ("fast", "one-cycle", 0.05)
    assert (saved.recipe["epochs"], saved.recipe["beta"], saved.recipe["eps_step"]) == (2, 6.0, 0.025)
    assert f"recipe      fast: {saved.recipe['source']}" in out
    assert pd.read_csv("fast.csv")["learning_rate"].iloc[-1] < 0.05 / 25
    assert max(map(len, out.splitlines())) <= 80


def test_weights_are_chosen_on_held_out_examples(run):
    code, out, err = run(
        *("train", "standard", "--epochs", 6, "--lr", 0.3, "--threat", "Linf:0.1", "--steps", 2, "--quiet"),
        *("--validation", 200, "--keep", "robust+worst", "--tensorboard", "logs", "--out", "v.pt"),
    )
    assert code == 0, err
    history = pd.read_csv("v.csv").set_index("epoch")
    best = int((history["val_robust"] + history["val_worst"]).idxmax())
    assert acw.zoo.read_checkpoint("v.pt").recipe["epoch"] == best
    row = history.loc[best]
    assert f"Validation at epoch {best}: clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}, " in out
    assert f"worst class {row['val_worst']:.1%}." in out
    assert f"The weights are those of epoch {best} (--keep robust+worst)." in out
    kept = trained_weights("v.training", "kept")
    for name, weights in acw.zoo.read_checkpoint("v.pt").state_dict.items():
        assert torch.equal(weights, kept[name])
    assert any(Path("logs").glob("events*"))


@pytest.mark.parametrize("sizes", [(50, 50, 50), (400, 40, 4), (3, 0, 7)])
@pytest.mark.parametrize("n", [1, 9])
def test_held_out_examples_are_of_all_classes(sizes, n):
    """In proportion: of each class, the share held out differs from n's share by less than one example."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(3), sizes))
    data = acw.Dataset(np.zeros((len(y), 1, 2, 2), np.float32), y, ("a", "b", "c"))
    left, held_out = data.hold_out(n)
    assert sorted([*left.ids, *held_out.ids]) == list(range(len(y)))
    assert len(held_out) == n
    for k in range(3):
        assert abs((held_out.y == k).sum() - sizes[k] * n / len(y)) <= 1
    assert data.hold_out(n, seed=0)[1].ids.tolist() == held_out.ids.tolist()
    assert any(data.hold_out(n, seed=seed)[1].ids.tolist() != held_out.ids.tolist() for seed in (1, 2, 3))


def test_a_stopped_training_goes_on(run, monkeypatch, tmp_path):
    """Interrupted after two epochs of four, and resumed, it ends with the same weights and history."""
    options = ("train", "mart", "--epochs", 4, "--threat", "Linf:0.1", "--steps", 2, "--quiet")
    assert run(*options, "--out", "whole.pt")[0] == 0
    write = TrainingFile.write

    def until_the_second(self, state):
        write(self, state)
        if state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingFile, "write", until_the_second)
    assert run(*options, "--out", "cut.pt")[0] != 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not Path("cut.pt").exists()
    code, _, err = run(*options, "--out", "cut.pt")
    assert code == 2
    assert err.startswith("error: cut.training already holds a training: continue it with --resume")
    assert run(*options, "--out", "cut.pt", "--resume", "--lr", 0.1)[0] == 2  # another recipe
    code, out, err = run(*options, "--out", "cut.pt", "--resume")
    assert code == 0, err
    assert "After 4 epochs" in out
    whole, resumed = acw.zoo.read_checkpoint("whole.pt"), acw.zoo.read_checkpoint("cut.pt")
    assert resumed.recipe == whole.recipe
    for name, weights in whole.state_dict.items():
        assert torch.equal(weights, resumed.state_dict[name])
    histories = [pd.read_csv(f"{name}.csv").drop(columns="images_per_second") for name in ("whole", "cut")]
    pd.testing.assert_frame_equal(*histories)
    assert run(*options, "--out", "new.pt", "--resume")[0] == 0  # nothing to go on with: starts anew
    assert pd.read_csv("new.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_only_the_first_process_writes_and_speaks(run, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert run("train", "standard", "--epochs", 1, "--steps", 1, "--out", "x.pt") == (0, "", "")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_train_under_torchrun(tmp_path):
    """Two processes: one checkpoint, one report."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["art_classwise", "train", "trades", "--epochs", "2", "--steps", "2", "--threat", "Linf:0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--out", "two.pt"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("After 2 epochs") == 1
    assert acw.zoo.read_checkpoint(tmp_path / "two.pt").recipe["method"] == "trades"
    assert len(pd.read_csv(tmp_path / "two.csv")) == 2


def test_a_path_with_an_equals_sign_is_a_path(run, checkpoint, tmp_path):
    (tmp_path / "lr=0.1").mkdir()
    for path in ("lr=0.1.pt", "lr=0.1/x.pt"):
        (tmp_path / path).write_bytes(checkpoint.read_bytes())
        assert run("audit", "--model", path, "--examples", 10, "--quiet", "--out", "r")[0] == 0
        assert acw.read_audit("r").models[-1] == Path(path).stem  # beside those that are there


def test_warnings_are_one_line(run, checkpoint, monkeypatch, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(1))
    classifier = acw.as_classifier(network, (1, 8, 8), 10)
    monkeypatch.setattr("art_classwise.audit.plan.load_checkpoint", lambda path: classifier)
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

    monkeypatch.setattr("art_classwise.audit.plan.load_robustbench", load)
    assert robustbench
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "my.npz", x=rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), y=rng.integers(0, 10, 12))
    code, out, err = run(
        *("audit", "--model", "robustbench:cifar10/Wong2020Fast", "--dataset", "my.npz", "--class-names", "cifar10"),
        *("--quiet", "--unsafe-weights", "--threat", "Linf:8/255"),
    )
    assert code == 0, err
    (((name, dataset, norm, model_dir), unsafe),) = asked
    assert (name, dataset, norm, unsafe) == ("Wong2020Fast", "cifar10", "Linf", True)
    assert Path(model_dir) == tmp_path / "models"  # absolute: workers may run elsewhere
    assert "airplane" in out


@pytest.mark.parametrize("there", ["x.pt", "x.csv"])
def test_files_that_are_there_are_not_replaced(run, tmp_path, there):
    (tmp_path / there).write_text("mine")
    code, _, err = run("train", "mart", "--epochs", 1, "--out", "x.pt", "--quiet")
    assert code == 2
    assert f"error: {there} already exists: choose another --out" in err
    assert (tmp_path / there).read_text() == "mine"


BAD = [
    (("audit", "--model", "{ckpt}", "--dataset", "cifar11"), "Unknown data set 'cifar11'. Did you mean cifar10"),
    (("audit", "--model", "mien"), "Unknown model 'mien'. Give a file of weights"),
    (("audit", "--model", "mine.pt"), "There is no file"),
    (("audit", "--model", ""), "Unknown model ''"),
    (("audit", "--model", "{ckpt}", "--class", "²"), "Unknown class '²'"),
    (("audit", "--model", "{ckpt}", "--image-size", "0"), "--image-size must be"),
    (("audit", "--model", "{ckpt}", "--image-size", "9"), "takes images of shape (1, 8, 8)"),
    (
        ("train", "standard", "--beta", "3", "--out", "x.pt"),
        "--beta is a parameter of trades, mart, bat; standard has none",
    ),
    (("train", "mart", "--seed", "99999999999999999999", "--out", "x.pt"), "at least 0 and below 2**63"),
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
    (("audit", "--model", "{ckpt}", "--batch-size", "0"), "--batch-size must be"),
    (("audit", "--model", "{ckpt}", "--dataset", "outside.npz"), r"Pixels must lie in [0, 1]"),
    (("audit", "--model", "{ckpt}", "--dataset", "nan.npz"), "not finite"),
    (("audit", "--model", "{ckpt}", "--dataset", "length.npz"), "4 examples, but 3 labels"),
    (("audit", "--model", "{ckpt}", "--dataset", "label.npz"), "outside the 10 classes"),
    (("audit", "--model", "{ckpt}", "--dataset", "empty.npz"), "is empty"),
    (("audit", "--model", "{ckpt}", "--dataset", "shape.npz", "--threat", "L2:1"), "takes images of shape (1, 8, 8)"),
    (("audit", "--model", "{ckpt}", "--dataset", "shape.npz"), "Give a threat model, --threat, e.g. Linf:8/255"),
    (("audit", "--model", "{ckpt}", "--attacks", "blackbox"), "needs a model to transfer from"),
    (("audit", "--model", "{ckpt}", "--attacks", "pgd20"), "Unknown attack 'pgd20'. Did you mean pgd-20"),
    (("audit", "--model", "{ckpt}", "--precision", "fp16"), "fp16"),
    (("audit", "--model", "other.pt"), "of another architecture than the architecture 'digits-cnn'"),
    (("quickstart", "--out", "file"), "can't be written"),
    (("quickstart", "--seed", "-1"), "--seed must be"),
    (("train", "mart", "--out", "file/x.pt"), "can't be written"),
    (("train", "mart", "--out", "."), "is a folder: name a file, such as mart.pt"),
    (("train", "mart", "--out", "x.pt", "--arch", "resnet19"), "Did you mean resnet18"),
    (("train", "mart", "--out", "x.pt", "--arch", "mnist-cnn"), "takes images of 28 x 28"),
    (("train", "mart", "--out", "x.pt", "--epochs", "0"), "--epochs must be"),
    (("train", "mart", "--out", "x.pt", "--lr", "nan"), "--lr must be"),
    (("train", "mart", "--out", "x.pt", "--batch-size", "0"), "--batch-size must be"),
    (("train", "mart", "--out", "x.pt", "--steps", "0"), "--steps must be"),
    (("train", "mart", "--out", "x.pt", "--ema", "1"), "--ema must be"),
    (("train", "mart", "--out", "x.pt", "--awp", "-1"), "--awp must be"),
    (("train", "mart", "--out", "x.pt", "--workers", "-1"), "--workers must be"),
    (("train", "mart", "--out", "x.pt", "--precision", "fp16"), "fp16"),
    (("train", "mart", "--out", "x.pt", "--recipe", "papr"), "Unknown recipe 'papr'. Did you mean paper"),
    (("train", "mart", "--out", "x.pt", "--recipe", "fast:awp"), "Unknown recipe 'fast:awp'"),
    (("train", "mart", "--out", "x.pt", "--recipe", "paper:"), "Unknown recipe 'paper:'"),
    (("train", "mart", "--out", "x.pt", "--recipe", "paper:cfa"), "of mart with cfa, only paper, paper:awp. Take one"),
    (
        ("train", "natural", "--out", "x.pt", "--recipe", "paper"),
        "No recipe of the method 'natural' is published: take the quick one",
    ),
    (("train", "mart", "--out", "x.pt", "--option", "weighted"), "--option is written NAME=VALUE, such as weighted="),
    (("train", "mart", "--out", "x.pt", "--option", "wieghted=true"), "Did you mean weighted"),
    (("train", "trades", "--out", "x.pt", "--option", "kl=false"), "Unknown option of trades 'kl'"),
    (("train", "mart", "--out", "x.pt", "--option", "kl=1", "--option", "kl=0"), "--option kl is given twice"),
    (("train", "standard", "--out", "x.pt", "--option", "batch_size=8"), "--option batch_size=8: give --batch-size"),
    (("train", "ard", "--out", "x.pt", "--option", "teacher=a.pt"), "--option teacher=a.pt: give --teacher"),
    (("train", "fast", "--out", "x.pt", "--option", "method=fgsm-rs"), "name it in place of the trainer"),
    (("train", "n-fgsm", "--out", "x.pt", "--option", "on_collapse=stop"), "give --on-collapse"),
    (("train", "n-fgsm", "--out", "x.pt", "--option", "noise=-1"), "--option noise must be"),
    (("train", "fgsm-rs", "--out", "x.pt", "--option", "collapse_gap=0"), "--option collapse_gap must be"),
    (("train", "n-fgsm", "--out", "x.pt", "--option", "temperature=2"), "Unknown option of n-fgsm 'temperature'"),
    (("train", "n-fgsm", "--out", "x.pt", "--recipe", "paper"), "No recipe of the method 'n-fgsm' is published"),
    (("train", "mart", "--out", "x.pt", "--option", "kl=0.5"), "--option kl must be True or False, but got 0.5"),
    (("train", "mart", "--out", "x.pt", "--option", "weighted=corect"), "Did you mean correct"),
    (
        ("train", "mart", "--out", "x.pt", "--option", "kl=false", "--option", "weighted=correct"),
        "--option weighted=correct is about the KL term, which --option kl=false leaves out",
    ),
    (("train", "mart", "--out", "x.pt", "--recipe", "paper"), "no published recipe of mart for digits-cnn on digits"),
    (("train", "mart", "--out", "x.pt", "--recipe", "paper"), "only for resnet18 on cifar10, wrn-34-10 on cifar10"),
    (("train", "mart", "--out", "x.pt", "--recipe", "paper"), "--recipe fast"),
    (("train", "mart", "--out", "x.pt", "--recipe", "fast", "--dataset", "shape.npz"), "Give a threat model"),
    (("train", "mart", "--out", "x.pt", "--recipe", "fast", "--dataset", "cifar11"), "Unknown data set 'cifar11'"),
    (("train", "mart", "--out", "x.pt", "--dataset", "cifar11"), "Unknown data set 'cifar11'"),
    (("train", "mart", "--out", "x.pt", "--keep", "robust"), "--keep robust needs validation examples"),
    (("train", "mart", "--out", "x.pt", "--keep", "best"), "best"),
    (("train", "mart", "--out", "x.pt", "--validation", "1000"), "--validation 1000 leaves no training examples"),
    (("train", "mart", "--out", "x.pt", "--validation", "-1"), "--validation must be"),
    (("train", "mart", "--out", "done.pt"), "done.training already holds a training: continue it with --resume"),
    (("train", "mart", "--out", "done.pt", "--resume"), "is not a file of torch weights"),
    (("train", "mart", "--out", "file.pt"), "can't be written"),
    (("train", "mart", "--out", "x.pt", "--beta", "-1"), "--beta must be"),
    (("train", "mart", "--out", "x.pt", "--threat", "Linf:8"), 'did you mean "Linf:8/255"'),
    (("train", "mrt", "--out", "x.pt"), "mrt"),
    (("report", "nowhere"), "holds no audit: there is no such folder. An audit that is kept writes one"),
    (("audti",), "audti"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(run, checkpoint, tmp_path, arguments, says):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "file.training").write_text("in the way")
    (tmp_path / "done.training").mkdir()
    (tmp_path / "done.training" / "training.pt").write_text("what was trained")
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
    assert "error: The loss was NaN or infinite in epoch 1" in err

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    code, _, err = run("audit", "--model", checkpoint, "--examples", "10", "--quiet")
    assert code == 1
    assert err.startswith("error: ")
    assert " ".join(err.split()).endswith("report.html can't be written: No space left on device.")


def test_a_bug_of_ours_keeps_its_traceback(run, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("art_classwise.quickstart.quickstart", broken)
    with pytest.raises(ZeroDivisionError):
        run("quickstart")
