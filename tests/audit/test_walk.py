"""Audits that load their models one by one: a whole leaderboard."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import zoo
from art_classwise.audit import runner, store
from art_classwise.errors import InputError


def make(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.Tanh(), nn.Linear(8, 4))
    return acw.as_classifier(network, (3, 6, 6), 4, device="cpu")


def failing():
    raise InputError("The download failed.")


def audit(**options):
    return acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-3"), verbose=False, **options)


def test_loaded_one_by_one_or_together_is_the_same(data, tmp_path):
    together = audit().evaluate({"a": make(0), "b": make(1), "c": make(2)}, data)
    one_by_one = audit(store=tmp_path).evaluate({"a": lambda: make(0), "b": make(1), "c": lambda: make(2)}, data)
    assert one_by_one.models == ("a", "b", "c")
    assert one_by_one.outcomes.equals(together.outcomes)
    assert one_by_one.manifest.probes == together.manifest.probes
    assert acw.read_audit(tmp_path).outcomes["model"].nunique() == 3


def test_one_model_at_a_time_is_in_memory(data):
    alive, most = weakref.WeakSet(), []

    def load(seed):
        gc.collect()
        classifier = make(seed)
        alive.add(classifier.model)
        most.append(len(alive))
        return classifier

    audit().evaluate({str(i): lambda i=i: load(i) for i in range(4)}, data)
    assert most == [1, 1, 1, 1]


def test_what_can_not_be_loaded_is_left_out_and_said(data):
    models = {"a": lambda: make(0), "lost": failing, "b": lambda: make(1)}
    with pytest.warns(UserWarning, match="Continuing without 'lost': The download failed."):
        result = audit().evaluate(models, data, optional=["lost"])
    assert result.models == ("a", "b")
    assert set(result.manifest.models) == {"a", "b"}
    with pytest.raises(InputError, match="The download failed."):
        audit().evaluate(models, data)


def test_what_does_not_fit_is_left_out_too(data):
    def other_shape():
        return acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 4, device="cpu")

    with pytest.warns(UserWarning, match=r"Continuing without 'small'.*takes images of shape"):
        result = audit().evaluate({"small": other_shape, "a": lambda: make(0)}, data, optional=["small", "a"])
    assert result.models == ("a",)


def test_none_left_is_an_error(data):
    with (
        pytest.warns(UserWarning, match="Continuing without"),
        pytest.raises(InputError, match="None of the 2 models could be loaded"),
    ):
        audit().evaluate({"x": failing, "y": failing}, data, optional=["x", "y"])


def test_a_walk_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(store=tmp_path).evaluate({"a": lambda: make(0), "b": killed}, data)
    computed = []
    attacked = runner.ShardRunner.attacked
    monkeypatch.setattr(
        runner.ShardRunner,
        "attacked",
        lambda self, c, name, *rest: computed.append(name) or attacked(self, c, name, *rest),
    )
    again = audit(store=tmp_path).evaluate({"a": lambda: make(0), "b": lambda: make(1)}, data)
    assert computed == ["fgsm", "pgd-3"]  # of b
    assert again.outcomes.equals(audit().evaluate({"a": make(0), "b": make(1)}, data).outcomes)


def test_what_is_finished_stays_though_its_weights_are_gone(data, tmp_path):
    first = audit(store=tmp_path).evaluate({"a": lambda: make(0), "b": lambda: make(1)}, data)
    with pytest.warns(UserWarning, match="Continuing without 'a'|The folder already holds") as said:
        again = audit(store=tmp_path).evaluate({"a": failing, "b": lambda: make(1)}, data, optional=["a"])
    assert again.outcomes.equals(first.outcomes)
    assert [str(w.message) for w in said] == [
        "Continuing without 'a': The download failed.",
        "The folder already holds outcomes of a, which are reused.",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threat": "Linf:0.01"}, "the threat model was"),
        ({"seed": 1}, "seed was 0"),
        ({"worst_case": True}, "worst_case was False"),
    ],
)
def test_another_audits_folder_is_refused_before_models_are_loaded(data, tmp_path, change, says):
    models = {"a": lambda: make(0), "b": lambda: make(1)}
    audit(store=tmp_path).evaluate(models, data)
    options = {"threat": "Linf:0.02", "seed": 0, "verbose": False, "store": tmp_path, **change}
    other = acw.ClassWiseAudit(attacks=("fgsm", "pgd-3"), **options)
    with pytest.raises(InputError, match=says):
        other.evaluate({"a": lambda: pytest.fail("loaded")}, data, optional=["a"])
    with pytest.raises(InputError, match="the choice of examples was"):
        audit(store=tmp_path).evaluate(models, data.first(10), optional=["a", "b"])


def test_outcomes_of_another_network_are_not_taken_for_its(data, tmp_path):
    audit(store=tmp_path).evaluate({"a": lambda: make(0)}, data)
    with pytest.warns(UserWarning, match="Continuing without 'a'.*the network of the model 'a' was another"):
        result = audit(store=tmp_path).evaluate({"a": lambda: make(5), "b": lambda: make(1)}, data, optional=["a"])
    assert result.models == ("b",)


def test_a_folder_that_can_not_be_written_ends_the_walk(data, tmp_path, monkeypatch):
    def full(self, name, content):
        raise store.StoreError("the disk is full")

    monkeypatch.setattr(store.Store, "_write", full)
    with pytest.raises(InputError, match="the disk is full"):
        audit(store=tmp_path).evaluate({"a": lambda: make(0), "b": lambda: make(1)}, data, optional=["a", "b"])


def test_errors_of_others_code_leave_one_model_out(data):
    def too_large():
        raise RuntimeError("CUDA out of memory")

    class Odd(nn.Module):
        def forward(self, x):
            if len(x) > 2:  # more than as_classifier tries
                raise ValueError("an odd network")
            return x.flatten(1)[:, :4]

    def odd():
        return acw.as_classifier(Odd(), (3, 6, 6), 4, device="cpu")

    models = {"large": too_large, "odd": odd, "a": lambda: make(0)}
    with pytest.warns(UserWarning, match="Continuing without '(odd|large)'") as said:
        result = audit().evaluate(models, data, optional=["large", "odd"])
    assert result.models == ("a",)
    large, odd_one = (str(w.message) for w in said)
    assert large == "Continuing without 'large': CUDA out of memory"
    assert odd_one.startswith("Continuing without 'odd': ")
    assert odd_one.endswith(": an odd network")
    with pytest.raises(RuntimeError):
        audit().evaluate(models, data)


def test_models_in_memory_may_be_optional_too(data):
    small = acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 4, device="cpu")
    with pytest.warns(UserWarning, match="Continuing without 'small'"):
        result = audit().evaluate({"small": small, "a": make(0)}, data, optional=["small"])
    assert result.models == ("a",)


def test_in_worst_case_too(data, tmp_path):
    lazy = audit(worst_case=True, store=tmp_path).evaluate({"a": lambda: make(0), "b": lambda: make(1)}, data)
    assert lazy.outcomes.equals(audit(worst_case=True).evaluate({"a": make(0), "b": make(1)}, data).outcomes)


def test_a_name_in_optional_must_be_a_models(data):
    with pytest.raises(InputError, match="`optional` must be names of models, such as .'a'., but is a string"):
        audit().evaluate({"a": make(0)}, data, optional="a")
    with pytest.raises(InputError, match="Unknown model in `optional` 'aa'. Did you mean a"):
        audit().evaluate({"a": make(0)}, data, optional=["aa"])


def test_a_module_is_no_loader(data):
    with pytest.raises(InputError, match="must be an ART PyTorchClassifier, but is a Sequential"):
        audit().evaluate({"a": nn.Sequential(nn.Flatten(), nn.Linear(108, 4))}, data)
    with pytest.raises(InputError, match="must be an ART PyTorchClassifier, but is a NoneType"):
        audit().evaluate({"a": lambda: None}, data)


# The command line.


@pytest.fixture
def leaderboard(monkeypatch):
    """Three models for digits; the weights of one can't be fetched."""

    def load(name, dataset, threat_model, model_dir, *, unsafe_weights):
        if name == "Lost2020":
            raise InputError("Lost2020 could not be downloaded.")
        network = acw.build("digits-cnn", (1, 8, 8), 10, seed=len(name))
        return acw.as_classifier(network, (1, 8, 8), 10, device="cpu")

    monkeypatch.setattr(zoo, "robustbench_names", lambda dataset, threat: ("One2019", "Lost2020", "Three2021x"))
    monkeypatch.setattr("art_classwise.audit.plan.load_robustbench", load)


@pytest.mark.filterwarnings("always:Continuing without")  # the command line prints it
def test_a_whole_leaderboard(leaderboard, command_line, tmp_path):
    arguments = ("audit", "--dataset", "digits", "--attacks", "fgsm", "--examples", "20", "--out", "all", "--quiet")
    code, out, err = command_line(*arguments, "--model", "robustbench:all")
    assert code == 0
    assert "warning: Continuing without 'Lost2020': Lost2020 could not be downloaded." in err
    assert "Models: accuracy in %" in out
    assert acw.read_audit(tmp_path / "all").models == ("One2019", "Three2021x")
    code, out, err = command_line(*arguments, "--model", "robustbench:all")
    assert code == 0


@pytest.mark.filterwarnings("always:Continuing without")
def test_a_leaderboard_beside_a_model(leaderboard, command_line, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, device="cpu")
    classes, threat = tuple("0123456789"), acw.ThreatModel("Linf", 0.1)
    acw.save_checkpoint(tmp_path / "mine.pt", classifier, architecture="digits-cnn", classes=classes, threat=threat)
    arguments = ("audit", "--attacks", "fgsm", "--examples", "20", "--out", "b", "--quiet", "--model", "mine.pt")
    code, _, _ = command_line(*arguments, "--model", "robustbench:all")
    assert code == 0
    assert acw.read_audit(tmp_path / "b").models == ("mine", "One2019", "Three2021x")


def test_what_the_command_line_refuses(leaderboard, command_line):
    arguments = ("audit", "--attacks", "fgsm", "--examples", "20", "--quiet")
    code, _, err = command_line(*arguments, "--model", "x=robustbench:all")
    assert (code, "gives many models the same name" in err) == (2, True)
    code, _, err = command_line(*arguments, "--model", "robustbench:One2019", "--model", "robustbench:all")
    assert (code, "Two models are named 'One2019'" in err) == (2, True)
    code, _, err = command_line(*arguments, "--model", "robustbench:Lost2020")
    assert (code, err.strip().splitlines()[-1]) == (2, "error: Lost2020 could not be downloaded.")


def test_without_checks(leaderboard, command_line, tmp_path):
    arguments = ("audit", "--attacks", "fgsm", "--examples", "20", "--out", "c", "--quiet", "--no-checks")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, _, _ = command_line(*arguments, "--model", "robustbench:One2019")
    assert code == 0
    assert acw.read_audit(tmp_path / "c").manifest.probes == {}
