"""evaluations/gpu.py: what fits into a limit of time is done, the rest is told, and calls add up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from places import ROOT
from processes import Child
from simulated_device import counted_waits, is_supported, register

import art_classwise as acw
from art_classwise.trainers import METHODS, training_history
from art_classwise.trainers.recipes import paper_recipe


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budgets(evaluation):
    return evaluation("budget")


@pytest.fixture
def paced(evaluation, budgets):
    return evaluation("paced")


def test_a_step_is_begun_only_if_there_is_time_for_it(budgets, clock, capsys):
    budget = budgets.Budget(100, reserve=10, clock=clock)
    with budget.measured("step"):
        clock.now += 40
    assert (budget.elapsed, budget.left) == (40, 50)
    assert budget.expected("step") == 50  # a quarter more than it took
    assert not budget.begin("step", "the step")
    assert budget.begin("unknown", "another", guess=49)
    assert not budget.begin("unknown", "another", guess=30, beside=20)
    assert [what for what, _ in budget.skipped] == ["the step", "another"]
    assert budget.skipped[0][1] == "it is reckoned with 50 s, but 50 s are left"
    assert budget.skipped[1][1] == "it may take 30 s, but 50 s are left, and 20 s are kept for what follows"
    assert "left out: the step: it is reckoned with" in capsys.readouterr().out


def test_times_of_failed_steps_are_not_noted(budgets, clock):
    budget = budgets.Budget(100, clock=clock, times={"step": 3.0})
    with pytest.raises(ValueError, match="fails"), budget.measured("step"):
        raise ValueError("it fails")
    assert budget.times == {"step": 3.0}


def test_what_was_ended_at_the_limit_is_reckoned_with(budgets, clock):
    budget = budgets.Budget(100, clock=clock)
    assert budget.begin("step", "the step", guess=10)
    clock.now += 90
    budget.give_up("it took too long", too_long=True)
    assert budget.skipped == [("the step", "it took too long")]
    again = budgets.Budget(100, clock=clock, times=budget.times)
    assert not again.begin("step", "the step", guess=10)
    assert again.begin("other", "another", guess=10)
    again.give_up("the call was interrupted")
    assert "other" not in again.times


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_steps_overruns(budgets, clock, seed):
    """Whatever steps there are, if none takes longer than a quarter more than it took last."""
    rng = np.random.default_rng(seed)
    budget = budgets.Budget(rng.uniform(50, 500), reserve=rng.uniform(0, 20), clock=clock)
    usual = rng.uniform(1, 60, 4)
    for _ in range(100):
        k = rng.integers(4)
        if budget.fits(str(k), guess=1.05 * usual[k]):
            with budget.measured(str(k)):
                clock.now += usual[k] * rng.uniform(0.9, 1.05)
    assert budget.left >= 0
    assert budget.left < 1.25 * 1.05 * usual.max()  # and little is left unused


def test_a_step_without_end_is_ended(budgets):
    ended = threading.Event()
    with budgets.ended_by(0.0, ended.set):
        assert ended.wait(60)
    never = threading.Event()
    with budgets.ended_by(600, never.set):
        pass
    assert not never.is_set()


def test_the_beginning_is_that_of_the_process(budgets):
    assert 0 < budgets.time.monotonic() - budgets.began_at() < 24 * 3600


class Rates:
    """A schedule that does nothing."""

    def __init__(self):
        self.optimizer, self.steps = None, 0

    def step(self):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def steps_until(schedule, clock, durations):
    """Take steps of these seconds until the schedule ends them; return how many there were, and why."""
    for number, seconds in enumerate(durations, start=1):
        clock.now += seconds
        try:
            schedule.step()
        except Exception as error:
            return number, str(error)
    raise AssertionError("it never ended")


def test_a_training_ends_at_the_end_of_an_epoch(budgets, paced, clock):
    """Epochs of 10 steps of a second: a step after the ninth 9 s are left, and the tenth may take 12.5 s."""
    budget = budgets.Budget(100, clock=clock)
    n, why = steps_until(paced.PacedSchedule(Rates(), budget, "epoch", 10), clock, [1.0] * 1000)
    assert (n, why) == (9 * 10 + 1, "there is no time for another epoch")
    assert clock.now <= 100


@pytest.mark.parametrize(("known", "n", "n_batches"), [(False, 20, 100), (False, 2, 1000), (True, 61, 100)])
def test_an_epoch_that_cannot_end_is_given_up_early(budgets, paced, clock, known, n, n_batches):
    """Steps of a second; of an epoch that was measured before, what fits was asked before it began."""
    budget = budgets.Budget(60, clock=clock, times={"epoch": 40.0} if known else {})
    found, why = steps_until(paced.PacedSchedule(Rates(), budget, "epoch", n_batches), clock, [1.0] * 200)
    assert found == n
    assert (f"an epoch would take about {1.1 * n_batches:.0f} s" in why) is not known
    assert ("is lost" in why) is known
    if not known:
        assert not budget.fits("epoch")  # the next call knows


def test_time_is_left_for_what_follows(budgets, paced, clock):
    budget = budgets.Budget(100, clock=clock)
    n, _ = steps_until(paced.PacedSchedule(Rates(), budget, "epoch", 10, kept=50), clock, [1.0] * 1000)
    assert n == 41  # 59 s are left, of which another epoch may take 12.5 s
    assert budget.left >= 50


RECIPE = replace(
    paper_recipe("mart", "resnet18", "cifar10"),
    **{"epochs": 3, "steps": 1, "batch_size": 50, "crop_padding": 0, "flip": False, "lr": 0.05, "weight_decay": 5e-4},
    decay=((2, 0.5), (3, 0.1)),
)
DATA = acw.load_dataset("digits", "train").first(120)


def subject(paced):
    make = partial(acw.build, "digits-cnn", DATA.input_shape, 10, seed=0)
    train, validation = DATA.hold_out(20)
    return paced.Subject(make, train, validation, "cpu")


def same_weights(a, b):
    weights = (a.model.state_dict(), b.model.state_dict())
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])


def test_calls_add_up_to_one_long_training(budgets, paced, tmp_path):
    """Each call has time for an epoch; a plain training whose schedule goes by epochs ends with the same weights."""
    what, reasons = subject(paced), []
    for _ in range(3):
        clock = Clock()
        budget = budgets.Budget(10, clock=clock)
        real = paced.PacedSchedule.step

        def step(self, real=real, clock=clock):
            clock.now += 3  # two batches are an epoch: 6 s, and 7.5 s are reckoned with for the next
            real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paced.PacedSchedule, "step", step)
            reasons.append(
                paced.train(RECIPE, what, tmp_path / "paced", budget, step="an epoch", seed=1, verbose=False)
            )
    assert reasons == ["there is no time for another epoch", "there is no time for another epoch", ""]
    assert paced.epochs_of(tmp_path / "paced") == 3

    plain = what.classifier()
    optimizer = plain._optimizer = RECIPE.optimizer(plain.model)
    trainer = METHODS["mart"].trainer(plain, **RECIPE.trainer_options(plain.model), seed=1, verbose=False)
    history = trainer.fit(
        what.train.x,
        what.train.y,
        validation_data=(what.validation.x, what.validation.y),
        **RECIPE.fit_options(optimizer, len(what.train)),
        keep="robust",
    )
    found, epoch = paced.trained(what, tmp_path / "paced")
    assert epoch == history.attrs["kept_epoch"]
    assert same_weights(found, plain)
    columns = [c for c in history if c != "images_per_second"]
    pd.testing.assert_frame_equal(training_history(tmp_path / "paced")[columns], history[columns])
    assert history["learning_rate"].tolist() == pytest.approx([0.05, 0.025, 0.005])


@pytest.mark.parametrize("n", [100, 101, 128, 130, 1000])
def test_a_schedule_by_steps_has_the_rates_of_one_by_epochs(paced, n):
    recipe = replace(RECIPE, epochs=6, decay=((3, 0.1), (5, 0.01)))

    def rates(recipe):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
        scheduler, interval = recipe.scheduler(optimizer, n)
        found = []
        for _ in range(recipe.epochs):
            for _ in range(paced.n_batches(recipe, n)):
                found.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                if interval == "step":
                    scheduler.step()
            if interval == "epoch":
                scheduler.step()
        return found

    assert rates(paced.by_steps(recipe, n)) == rates(recipe)


def test_each_beginning_has_all_classes(paced):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(4), (10, 20, 30, 40)))
    data = acw.Dataset(np.zeros((100, 1, 2, 2), np.float32), y, list("abcd"))
    found = paced.balanced(data)
    assert sorted(found.ids.tolist()) == sorted(data.ids.tolist())
    for n in range(1, 101):
        counts = np.bincount(found.y[:n], minlength=4)
        assert (abs(counts - n * np.array([0.1, 0.2, 0.3, 0.4])) <= 1).all()


def test_accuracies_by_class_are_those_counted_one_by_one(paced):
    rng = np.random.default_rng(0)
    rows = [
        {"attack": attack, "example": i, "label": i % 3, "clean_prediction": rng.integers(3), "prediction": 0}
        for attack in ("weak", "strong")
        for i in range(30)
    ]
    outcomes = pd.DataFrame(rows)
    first = outcomes[outcomes["attack"] == "weak"].set_index("example")["clean_prediction"]
    outcomes["clean_prediction"] = outcomes["example"].map(first)
    outcomes["withstood"] = (outcomes["clean_prediction"] == outcomes["label"]) & (rng.random(60) < 0.7)
    table = paced.class_table(outcomes, ["a", "b", "c", "absent"]).set_index(["attack", "class"])
    for k, name in enumerate("abc"):
        of = [row for row in outcomes.to_dict("records") if row["label"] == k]
        for attack in ("weak", "strong"):
            here = [row["withstood"] for row in of if row["attack"] == attack]
            assert table.loc[(attack, name), "accuracy %"] == pytest.approx(100 * sum(here) / 10)
        both = [all(r["withstood"] for r in of if r["example"] == i) for i in {r["example"] for r in of}]
        assert table.loc[("worst case", name), "accuracy %"] == pytest.approx(100 * sum(both) / 10)
        clean = [row["clean_prediction"] == k for row in of if row["attack"] == "weak"]
        assert table.loc[("clean", name), "accuracy %"] == pytest.approx(100 * sum(clean) / 10)
    assert table.loc[("strong", "absent"), "n"] == 0
    assert np.isnan(table.loc[("strong", "absent"), "accuracy %"])
    assert table.loc[("strong", "all"), "n"] == 30


TINY = ("--device", "cpu", "--size", "tiny", "--methods", "mart")
SCRIPT = ROOT / "evaluations" / "gpu.py"


@pytest.mark.slow
def test_a_tiny_call_in_a_process_of_its_own(evaluation, tmp_path, capsys):
    """A second call finds all done, and measures nothing."""
    call = [*TINY, "--minutes", "9", "--parts", "speed-audit", "train", "autoattack", "--out", str(tmp_path)]
    first = subprocess.run([sys.executable, str(SCRIPT), *call], capture_output=True, text=True, check=True).stdout
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix in (".pt", ".csv")}
    evaluation("gpu").main(call)
    second = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for told in (first, second):
        assert "| mart | 2 of 2 |" in told
        assert "left out" not in told
    assert "examples 1 to 20" in first
    assert "examples 1 to 20" not in second
    assert json.loads((tmp_path / "settings.json").read_text())["images"] == "made up"
    classes = pd.read_csv(tmp_path / "gpu_classes.csv")
    assert (classes[classes["class"] == "all"]["n"] == 40).all()
    assert set(classes["attack"]) == {"clean", "pgd-20", "margin-20", "tpgd5-20", "autoattack", "worst case"}
    assert len(pd.read_csv(tmp_path / "gpu_validation_mart.csv")) == 2 * 11
    speed = pd.read_csv(tmp_path / "gpu_speed_audit.csv")
    assert (speed["images"] == "made up").all()
    summary = (tmp_path / "summary.md").read_text()
    assert all(part in summary for part in ("## Speed: audit", "## Trainings", "## By class: mart-epoch-", "torch 2."))


def test_no_time_is_no_error(evaluation, tmp_path, capsys):
    """A call for a few seconds says what it leaves out."""
    evaluation("gpu").main([*TINY, "--minutes", "0.05", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    for part in ("attacks, pgd-10", "training, batch 2", "audit, worst case", "training by mart", "autoattack on mart"):
        assert f"| {part}" in told
    assert not list(tmp_path.rglob("training.pt"))


def test_an_interrupted_call_keeps_what_is_done(evaluation, tmp_path, monkeypatch, capsys):
    script = evaluation("gpu")
    monkeypatch.setattr(script.Call, "audit_trained", lambda *_: script._interrupt())
    with pytest.raises(SystemExit) as ended:
        script.main([*TINY, "--minutes", "9", "--parts", "train", "autoattack", "--out", str(tmp_path)])
    assert ended.value.code == 130
    summary = (tmp_path / "summary.md").read_text()
    assert "| mart | 2 of 2 |" in summary
    assert "the call was interrupted" in summary


def test_a_case_that_fails_leaves_the_others(evaluation, tmp_path, monkeypatch, capsys):
    script = evaluation("gpu")
    speed = sys.modules["attack_speed"]
    asked = []

    def time_case(case, *_):
        asked.append(case)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(speed, "time_case", time_case)
    script.main([*TINY, "--minutes", "9", "--parts", "speed-attacks", "--out", str(tmp_path)])
    assert len(asked) == 3
    assert capsys.readouterr().out.count("RuntimeError: out of memory |") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "cuda"), "finds no CUDA GPU"),
        (("--device", "cpu"), "there is no .*cifar10_train.npz"),
        (("--device", "cpu", "--size", "tiny", "--root", "nowhere"), "there is no nowhere.cifar10_train.npz"),
        (("--device", "cpu", "--size", "tiny", "--epochs", "0"), "--epochs must be 1 or more"),
        (("--device", "cpu", "--size", "tiny", "--model", "nowhere.pt"), "there is no file 'nowhere.pt'"),
        (("--device", "cpu", "--size", "tiny", "--seed", "-1"), "--seed must be a whole number of at least 0"),
        (("--device", "abacus", "--size", "tiny"), "torch can't compute on --device abacus: Expected one of cpu"),
    ],
)
def test_what_cannot_be_done_is_said(evaluation, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        evaluation("gpu").main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "typo.pt"), "there is no file 'typo.pt', which --model names"),
        (("--model", ""), "there is no file '', which --model names"),
        (("--root", "typo"), "there is no typo"),
        (("--parts", "trian"), "argument --parts: invalid choice: 'trian'"),
        (("--minutes", "nan"), "argument --minutes: must be a number above 0, but is 'nan'"),
        (("--seed", str(2**63)), "--seed must be a whole number of at least 0 and below 2"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_imported(arguments, said, tmp_path):
    """Of a machine by the minute, and without the packages that the script needs."""
    for name in ("torch", "art", "pyautoattack", "art_classwise"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('it is imported')")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    call = [sys.executable, "-S", str(SCRIPT), *arguments]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_sizes_are_those_of_the_command_line(evaluation):
    assert tuple(evaluation("gpu_call").SIZES) == evaluation("gpu_arguments").SIZES


def test_a_folder_that_cannot_be_made_is_said(evaluation, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="--out .*file/gpu can't be used: "):
        evaluation("gpu").main([*TINY, "--minutes", "9", "--out", str(tmp_path / "file/gpu")])


def test_results_of_other_settings_are_not_mixed(evaluation, tmp_path):
    script = evaluation("gpu")
    call = [*TINY, "--minutes", "0.01", "--parts", "train", "--out", str(tmp_path)]
    script.main(call)
    with pytest.raises(SystemExit, match="holds results of another call: precision 'auto', not 'fp32'"):
        script.main([*call, "--precision", "fp32"])


PRECISE = (*TINY, "--precision", "fp32", "--minutes", "9")
PARTS = ("train", "autoattack")


def on_the_device(out):
    register()
    sys.path.insert(0, str(SCRIPT.parent))
    import gpu

    with counted_waits() as waits:
        gpu.main([*PRECISE, "--device", "simulated", "--out", out, "--parts", *PARTS, "speed-training"])
    return dict(waits)


@pytest.mark.skipif(not is_supported(), reason="this torch takes no back end written in Python")
@pytest.mark.slow
def test_on_a_device_that_is_not_the_cpu(evaluation, tmp_path, capsys):
    """The weights, whose fingerprint names the folder, and the verdicts are the CPU's."""
    waits = Child(__file__, "on_the_device", str(tmp_path / "there")).result()
    assert waits["copy to the CPU"]
    evaluation("gpu").main([*PRECISE, "--out", str(tmp_path / "here"), "--parts", *PARTS])
    there, here = (pd.read_csv(tmp_path / name / "gpu_classes.csv") for name in ("there", "here"))
    assert there["device"].str.startswith("simulated on").all()
    pd.testing.assert_frame_equal(there.drop(columns="device"), here.drop(columns="device"))
    assert len(pd.read_csv(tmp_path / "there" / "gpu_speed_training.csv")) == 6
    assert "Left out" not in (tmp_path / "there" / "summary.md").read_text()
