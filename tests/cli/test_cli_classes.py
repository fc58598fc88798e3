"""`art-classwise train` beyond the average: policies, excluded classes, unlabelled images, normalised heads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import art_classwise as acw
from art_classwise.trainers import METHODS, trained_weights

QUICK = ("--threat", "Linf:0.1", "--steps", 1, "--epochs", 3, "--quiet")


@pytest.fixture
def run(command_line):
    return command_line


@pytest.fixture
def given(run, monkeypatch):
    """Run `train` up to the call of fit: what the trainer and fit were given."""

    def call(method, *arguments):
        seen = {}

        class Stub:
            def __init__(self, classifier, **options):
                seen.update(options)

            def fit(self, x, y, **options):
                seen.update(options, x=x, y=y)
                raise acw.InputError("stopped")

        monkeypatch.setitem(METHODS, method, SimpleNamespace(**{**vars(METHODS[method]), "trainer": Stub}))
        code, _, err = run("train", method, "--out", "x.pt", *QUICK, *arguments)
        assert (code, err) == (2, "error: stopped\n")
        return seen

    return call


def test_a_policy_is_given_to_the_trainer(given):
    policy = given("trades", "--class-policy", "dafa:lamb=0.1,warmup=1")["class_policy"]
    assert policy == acw.policies.DAFA(lamb=0.1, warmup=1)
    assert given("mart", "--class-policy", "weights:8=2,3=0.5")["class_policy"].weights == {8: 2.0, 3: 0.5}


def test_a_policy_is_told_in_the_checkpoint(run):
    code, _, err = run("train", "mart", "--class-policy", "cfol:eta=0.01", *QUICK, "--out", "p.pt")
    assert code == 0, err
    assert acw.zoo.read_checkpoint("p.pt").recipe["class_policy"] == {"name": "CFOL", "eta": 0.01, "gamma": 0.5}
    assert "weight_0" in pd.read_csv("p.csv")


def test_excluded_classes_are_never_predicted(run):
    """Not in validation either, from which they are missing without a warning: they are not held out."""
    options = ("--exclude", 3, "--exclude", "5", "--validation", 100)
    code, _, err = run("train", "trades", *options, *QUICK, "--out", "e.pt")
    assert (code, err) == (0, "")
    checkpoint = acw.zoo.read_checkpoint("e.pt")
    assert checkpoint.recipe["excluded"] == ["3", "5"]
    assert len(checkpoint.classes) == 10
    test = acw.load_dataset("digits", "test")
    predicted = acw.load_checkpoint("e.pt", device="cpu").predict(test.x).argmax(1)
    assert not np.isin(predicted, [3, 5]).any()
    assert np.isin(predicted, [0, 1]).any()
    history = pd.read_csv("e.csv")
    assert history[["val_robust_3", "robust_5"]].isna().all(axis=None)
    assert run("audit", "--model", "e.pt", "--threat", "Linf:0.1", "--examples", 50, "--quiet")[0] == 0


def test_labels_of_some_make_the_others_unlabelled(given):
    """In proportion to the classes, and disjoint."""
    train = acw.load_dataset("digits", "train")
    seen = given("mart", "--labels", 100, "--gamma", 0.5, "--unlabeled-fraction", 0.25)
    assert (len(seen["x"]), len(seen["x_unlabeled"])) == (100, 900)
    assert np.bincount(seen["y"]).tolist() == pytest.approx(np.bincount(train.y) / 10, abs=1)
    rows = {image.tobytes() for image in seen["x"]} | {image.tobytes() for image in seen["x_unlabeled"]}
    assert rows == {image.tobytes() for image in train.x}
    assert (seen["gamma"], seen["unlabeled_fraction"], seen["y_pseudo"]) == (0.5, 0.25, None)
    few = given("mart", "--labels", 100)  # the same ones, and nothing of the others
    np.testing.assert_array_equal(few["x"], seen["x"])
    assert "x_unlabeled" not in few
    named = given("mart", "--labels", 100, "--unlabeled", "rest")
    assert (len(named["x_unlabeled"]), named["gamma"], named["unlabeled_fraction"]) == (900, 1.0, 0.5)
    assert given("mart")["nb_epochs"] == 3  # and without them fit is told of none
    assert "x_unlabeled" not in given("mart")


def test_unlabelled_images_come_from_files(given, tmp_path):
    x = (np.random.default_rng(0).integers(0, 256, (20, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "more.npz", x=x, y_pseudo=np.arange(20) % 10)
    seen = given("mart", "--unlabeled", "more.npz")
    np.testing.assert_array_equal(seen["x_unlabeled"][:, 0], x / np.float32(255))
    assert seen["y_pseudo"].tolist() == [*range(10), *range(10)]
    assert len(seen["x"]) == 1000
    for i, image in enumerate(x):
        folder = tmp_path / "images" / str(i % 3)  # at any depth; the folders' names mean nothing
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    lazy = given("mart", "--unlabeled", "images")["x_unlabeled"]
    assert lazy.shape == (20, 1, 8, 8)
    assert {image.tobytes() for image in lazy[:]} == {image.tobytes() for image in (x / np.float32(255))[:, None]}
    named = given("mart", "--unlabeled", "digits", "--labels", 50)
    assert (len(named["x"]), named["x_unlabeled"].shape) == (50, (1000, 1, 8, 8))


def test_semi_supervised_training_tells_of_its_pseudo_labels(run):
    code, out, err = run("train", "mart", "--labels", 200, "--unlabeled", "rest", *QUICK, "--out", "s.pt")
    assert (code, err) == (0, "")
    assert "Pseudo-labels: 800 images, mean confidence " in out
    recipe = acw.zoo.read_checkpoint("s.pt").recipe
    assert (recipe["n"], recipe["unlabeled"]) == (200, {"from": "digits", "n": 800, "gamma": 1.0})
    before = Path("s.training/pseudo_labels.npz").stat().st_mtime_ns
    # As with version 0.1.0, where --labels alone meant this.
    code, again, _ = run("train", "mart", "--labels", 200, *QUICK, "--out", "s.pt", "--resume")
    assert code == 0
    assert Path("s.training/pseudo_labels.npz").stat().st_mtime_ns == before
    assert again == out


def test_few_labels_alone_train_on_few_examples(run):
    code, out, err = run("train", "trades", "--labels", 200, *[o for o in QUICK if o != "--quiet"], "--out", "s.pt")
    assert code == 0
    assert "Pseudo-labels" not in out
    assert "Trained on 200 of 1,000 examples; --unlabeled rest uses the images of the others." in err
    recipe = acw.zoo.read_checkpoint("s.pt").recipe
    assert (recipe["n"], recipe["unlabeled"]) == (200, None)


def test_a_normalised_head_is_saved_and_the_training_keeps_its_own(run):
    assert run("train", "standard", *QUICK, "--normalize-head", 0.5, "--out", "n.pt")[0] == 0
    own, saved = trained_weights("n.training"), acw.zoo.read_checkpoint("n.pt").state_dict
    norms = own["8.weight"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(saved["8.weight"], own["8.weight"] / norms.sqrt())
    assert torch.equal(saved["8.bias"], own["8.bias"])
    assert acw.zoo.read_checkpoint("n.pt").recipe["normalize_head"] == 0.5


def test_a_training_may_begin_with_a_checkpoint(run):
    """To fine-tune it: with a rate of almost nothing the weights stay where they were."""
    assert run("train", "natural", *QUICK, "--out", "first.pt")[0] == 0
    options = ("--init", "first.pt", "--lr", 1e-9, "--class-policy", "faal")
    code, _, err = run("train", "trades", *QUICK, *options, "--out", "tuned.pt")
    assert (code, err) == (0, "")
    first, tuned = acw.zoo.read_checkpoint("first.pt"), acw.zoo.read_checkpoint("tuned.pt")
    for name, weights in first.state_dict.items():
        torch.testing.assert_close(tuned.state_dict[name], weights, rtol=0, atol=1e-6)
    assert tuned.recipe["init"] == "first.pt"
    code, _, err = run("train", "trades", "--arch", "mnist-cnn", "--init", "first.pt", *QUICK, "--out", "x.pt")
    assert code == 2
    assert "error: mnist-cnn takes images of 28 x 28" in err


def test_natural_training_says_what_it_measured(run):
    code, out, err = run("train", "natural", *QUICK, "--out", "n.pt")
    assert (code, err) == (0, "")
    assert "of the training examples classified correctly" in out
    assert "nan" not in out


@pytest.mark.slow
def test_all_of_it_together(run):
    options = (
        "--labels",
        300,
        "--unlabeled",
        "rest",
        "--exclude",
        0,
        "--class-policy",
        "cfa:begin_after=1,fawa_start=1,threshold=0",
    )
    code, out, err = run(
        *("train", "bat", *QUICK, *options, "--validation", 100, "--normalize-head", 1, "--out", "all.pt")
    )
    assert (code, err) == (0, "")
    assert "Pseudo-labels: " in out
    test = acw.load_dataset("digits", "test")
    assert 0 not in acw.load_checkpoint("all.pt", device="cpu").predict(test.x).argmax(1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--class-policy", "dafy"], "Unknown class policy 'dafy'. Did you mean dafa?"),
        (["--class-policy", "dafa:lam=1"], "Unknown parameter of dafa 'lam'. Did you mean lamb?"),
        (["--class-policy", "dafa:lamb=big"], "--class-policy dafa:lamb=big: lamb must be a number"),
        (["--class-policy", "weights:cat=2"], "Unknown class 'cat'"),
        (["--class-policy", "weights:1=-1"], "Class weights must be finite and at least 0, but class 1 has -1"),
        (["--class-policy", "budgets:1=0"], "Class budgets are finite radii above 0"),
        (["--class-policy", "budgets:1=2"], "Linf radii above 0 and at most 1"),
        (
            ["--class-policy", "wat"],
            "--class-policy wat needs the class accuracies on validation examples: give --validation",
        ),
        (["--class-policy", "dafa"], "DAFA begins after 70 epochs, but there are 30"),
        (["--init", "nowhere.pt"], "There is no file"),
        (["--exclude", "eight"], "Unknown class 'eight'"),
        (
            [a for k in range(9) for a in ("--exclude", k)],
            "must leave two classes or more, but all classes but one are",
        ),
        ([a for k in range(10) for a in ("--exclude", k)], "must leave two classes or more, but all classes are"),
        (["--normalize-head", "2"], "--normalize-head must be a number from 0 to 1, but got 2.0"),
        (["--labels", "1000"], "--labels must be below the number of training examples, 1000, but is 1000"),
        (["--labels", "0"], "--labels must be a whole number of at least 1"),
        (["--labels", "100", "--gamma", "-1"], "--gamma must be a number of at least 0"),
        (["--labels", "100", "--unlabeled-fraction", "1"], "a batch of 128 would have 128 unlabelled examples"),
        (
            ["--unlabeled-fraction", "0.5"],
            "--unlabeled-fraction needs unlabelled images: give --unlabeled or --labels",
        ),
        (["--unlabeled", "rest"], "--unlabeled rest are the examples that --labels leaves: give that, too."),
        (["--gamma", "2"], "--gamma needs unlabelled images: give --unlabeled or --labels"),
        (["--class-policy", "dafa:warmup=2,warmup=3"], "A name appears twice in"),
        (["--unlabeled", "nowhere.npz"], "There is no file"),
        (["--unlabeled", "big.npz"], "x_unlabeled holds images of shape"),
        (["--unlabeled", "labels.npz"], "Pseudo-label 10 of example 1 is outside the 10 classes"),
        (["--unlabeled", "short.npz"], "short.npz holds 2 images, but y_pseudo has shape (1,)"),
        (["--unlabeled", "no_x.npz"], "must hold arrays named x, but it holds y"),
        (["--unlabeled", "empty"], "There is no image in"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(run, tmp_path, arguments, says):
    image = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "big.npz", x=np.zeros((2, 9, 9), np.uint8))
    np.savez(tmp_path / "labels.npz", x=image, y_pseudo=[0, 10])
    np.savez(tmp_path / "short.npz", x=image, y_pseudo=[0])
    np.savez(tmp_path / "no_x.npz", y=[1])
    (tmp_path / "empty").mkdir()
    code, out, err = run("train", "mart", "--quiet", "--out", "x.pt", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.filterwarnings("ignore:The pseudo-labels have a mean confidence")  # after so few steps
def test_stl10_brings_unlabelled_images_which_are_resized_alike(run, tmp_path, monkeypatch):
    """Semi-supervised MART at 64 pixels, on a stand-in of STL-10's three parts."""
    from torchvision import datasets

    from art_classwise.trainers import pseudo_labels

    class STL10:
        def __init__(self, root, download, split):
            n, draws = {"train": 20, "test": 10, "unlabeled": 30}[split], np.random.default_rng(0)
            self.data = draws.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
            self.labels = np.full(n, -1) if split == "unlabeled" else np.arange(n) % 10

    monkeypatch.setattr(datasets, "STL10", STL10)
    monkeypatch.setattr(pseudo_labels, "_LEAST_STEPS", 2)
    options = ("--dataset", "stl10", "--image-size", 64, "--arch", "resnet8-stem2", "--unlabeled", "stl10")
    rest = ("--recipe", "fast", "--no-compile", "--epochs", 1, "--steps", 1, "--batch-size", 16, "--gamma", 0.5)
    code, out, err = run("train", "mart", *options, *rest, "--data-dir", tmp_path, "--quiet", "--out", "stl.pt")
    assert code == 0, err
    assert "Pseudo-labels: 30 images" in out
    saved = acw.zoo.read_checkpoint("stl.pt")
    assert saved.input_shape == (3, 64, 64)
    assert saved.recipe["unlabeled"] == {"from": "stl10", "n": 30, "gamma": 0.5}
    assert saved.recipe["crop_padding"] == 8


def test_the_papers_semi_supervised_recipe_asks_for_images(run):
    options = ("--recipe", "paper", "--arch", "wrn-28-10", "--dataset", "cifar10")
    code, _, err = run("train", "mart", *options, "--out", "x.pt")
    assert (code, err) == (2, "error: The paper's recipe for wrn-28-10 needs unlabelled images: give --unlabeled.\n")
