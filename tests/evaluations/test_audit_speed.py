"""What the evaluation of the audit's speed measures, at sizes that take no time."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

import art_classwise as acw

ATTACKS = ["fgsm", "pgd-5", "margin-5x2", "tpgd5-5"]
ALL = "all attacks"


@pytest.fixture
def audit_speed(evaluation):
    return evaluation("audit_speed")


@pytest.fixture
def audit_size(evaluation):
    return evaluation("audit_size")


@pytest.fixture
def subject(audit_speed):
    """An untrained network on digits, whose labels are its own predictions."""
    return audit_speed.Subject("digits-cnn", "0.05", "digits", 40)


def robust(done):
    return {attack: verdicts.count("1") / len(verdicts) for attack, verdicts in done["withstood"].items()}


def asked(size="long", **given):
    absent = {"cifar10": None, "checkpoints": None, "model": None, "processes": 2, "rounds": 1}
    return argparse.Namespace(size=size, **{**absent, **given})


def test_a_network_with_random_weights_is_right_on_every_image(subject):
    classifier, data = subject.load()
    assert np.array_equal(classifier.predict(data.x).argmax(1), data.y)
    assert len(data) == 40
    assert subject.threat == acw.ThreatModel("Linf", 0.05)


def test_published_networks_and_checkpoints_keep_the_labels(audit_speed, shared, digits, tmp_path):
    module = acw.build("digits-cnn", (1, 8, 8), 10, seed=3)
    path = tmp_path / "net.pt"
    acw.save_checkpoint(path, module, architecture="digits-cnn", input_shape=(1, 8, 8), classes=digits.classes)
    classifier, data = audit_speed.Subject(str(path), "0.1", "digits", 30).load()
    assert np.array_equal(data.y, digits.first(30).y)
    expected = acw.as_classifier(module.eval(), (1, 8, 8), 10, device="cpu").predict(data.x)
    np.testing.assert_allclose(classifier.predict(data.x), expected, rtol=1e-4, atol=1e-5)
    x, y = np.zeros((2, 32, 32, 3), np.uint8), np.array([3, 4])
    np.savez(tmp_path / "two.npz", x=x, y=y)
    there = str(shared / "checkpoints")
    classifier, data = audit_speed.Subject("cifar10-cnn-a", "4/255", str(tmp_path / "two.npz"), 2, there).load()
    assert np.array_equal(data.y, y)
    assert len(data.classes) == classifier.nb_classes == 10


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")  # ART's
def test_others_attacks_agree_with_the_audit(audit_speed, subject):
    """Random starts differ, so that some verdicts may; one without a random start has to be the same."""
    theirs = audit_speed.time_way(audit_speed.THEIRS, asdict(subject), ATTACKS)
    ours = audit_speed.time_way(audit_speed.AUDIT, asdict(subject), ATTACKS)
    assert theirs["withstood"]["fgsm"] == ours["withstood"]["fgsm"]
    assert list(theirs["withstood"]) == list(ours["withstood"]) == [*ATTACKS, ALL]
    for attack, share in robust(ours).items():
        assert robust(theirs)[attack] == pytest.approx(share, abs=0.15)
    for done in (theirs, ours):
        assert {len(v) for v in done["withstood"].values()} == {40}
        assert 0 < robust(done)[ALL] <= min(robust(done).values()) < 0.9
        assert robust(done)["fgsm"] < 1
    assert list(theirs["seconds"]) == [*ATTACKS, ALL]
    assert theirs["seconds"][ALL] >= sum(theirs["seconds"][a] for a in ATTACKS) > 0
    assert list(ours["seconds"]) == [ALL]


def test_an_audit_whose_examples_leave_has_the_same_worst_case(audit_speed, subject):
    every = audit_speed.time_way(audit_speed.AUDIT, asdict(subject), ATTACKS)
    leaving = audit_speed.time_way(audit_speed.WORST_CASE, asdict(subject), ATTACKS)
    assert list(leaving["withstood"]) == [*ATTACKS, ALL]
    assert leaving["withstood"][ALL] == every["withstood"][ALL]
    left = [robust(leaving)[attack] for attack in ATTACKS]
    assert left == sorted(left, reverse=True)  # who has left isn't counted as withstanding
    assert left[-1] == robust(leaving)[ALL]


def test_steps_of_others_attacks_are_the_ladders(audit_speed, subject):
    classifier, _ = subject.load()
    factories = acw.attacks.ladder(["fgsm", "pgd-7", "margin-6x3", "tpgd2-4"], subject.threat)
    theirs = {
        name: audit_speed._theirs(name, make(classifier), classifier).__self__ for name, make in factories.items()
    }
    assert (theirs["fgsm"].eps, theirs["fgsm"].num_random_init) == (0.05, 0)
    for name, steps, starts in (("pgd-7", 7, 1), ("margin-6x3", 6, 3), ("tpgd2-4", 4, 1)):
        attack = theirs[name]
        assert (attack.max_iter, attack.num_random_init, attack.batch_size) == (steps, starts, 250)
        assert (attack.eps, attack.eps_step) == (0.05, 0.0125)
    assert theirs["pgd-7"].estimator is classifier
    with pytest.raises(acw.InputError, match="ART has no attack that is 'kl-5'"):
        audit_speed._theirs("kl-5", acw.PGD(classifier, loss="kl", verbose=False), classifier)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("pgd-5", acw.losses.cross_entropy),
        ("margin-5", acw.losses.margin),
        ("tpgd5-5", lambda logits, y: acw.losses.temperature(logits, y, 5.0)),
    ],
)
def test_others_attacks_climb_the_same_loss(audit_speed, subject, name, loss):
    """The gradient that ART is given has the sign of the loss's own."""
    import torch

    classifier, data = subject.load()
    (make,) = acw.attacks.ladder([name], subject.threat).values()
    estimator = audit_speed._theirs(name, make(classifier), classifier).__self__.estimator
    x = torch.from_numpy(data.x[:8]).requires_grad_()
    (expected,) = torch.autograd.grad(loss(classifier.model(x), torch.from_numpy(data.y[:8])).sum(), x)
    found = estimator.loss_gradient(data.x[:8], np.eye(10, dtype=np.float32)[data.y[:8]])
    clear = expected.abs().numpy() > 1e-4 * expected.abs().max().item()
    assert clear.mean() > 0.9
    assert np.array_equal(np.sign(found)[clear], expected.sign().numpy()[clear])


def test_autoattack_is_pyautoattacks_own_run(audit_speed, subject, monkeypatch):
    import pyautoattack
    import torch

    ran = {}

    def run(self, x, y, *, batch_size):
        ran.update(norm=self.norm, eps=self.epsilon, members=self.attacks_to_run, batch_size=batch_size)
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) < 10, 1 - x, x), y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    done = audit_speed.time_way(audit_speed.AUTOATTACK, asdict(subject), ["pgd-5", "autoattack"])
    members = ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert ran == {"norm": "Linf", "eps": 0.05, "members": members, "batch_size": 250}
    assert list(done["withstood"]) == ["autoattack", ALL]
    classifier, data = subject.load()
    broken = classifier.predict(1 - data.x[:10]).argmax(1) != data.y[:10]
    assert broken.any()
    assert done["withstood"][ALL] == "".join("01"[int(not b)] for b in broken) + "1" * 30


@pytest.mark.slow
def test_the_table_of_audits(audit_speed, subject):
    """Each way in a process of its own."""
    table = audit_speed.time_audits([subject], ["fgsm"], [audit_speed.AUDIT], rounds=1)
    assert list(table["attack"]) == ["fgsm", ALL]
    last = table.iloc[-1]
    assert (last["network"], last["way"], last["n"], last["rounds"]) == ("digits-cnn", "audit", 40, 1)
    assert last["eps x 255"] == pytest.approx(12.75)
    assert last["images / s"] == pytest.approx(40 / last["seconds"])
    assert last[["times audit", "verdicts that differ"]].tolist() == [1, 0]
    assert table["robust %"].between(0, 100).all()


@pytest.mark.slow
def test_what_fails_is_left_out_with_its_reason(audit_speed, tmp_path, capsys):
    nothing = audit_speed.Subject("digits-cnn", "0.05", str(tmp_path / "nowhere.npz"), 40)
    with pytest.raises(SystemExit, match="no way of auditing ran"):
        audit_speed.time_audits([nothing], ["fgsm"], [audit_speed.AUDIT])
    assert "left out: art_classwise.errors.InputError: There is no file" in capsys.readouterr().out


def test_rows_compare_with_the_first_way(audit_speed, subject, monkeypatch):
    """Medians over rounds, and the verdicts that differ, by hand."""
    seconds = iter([8.0, 1.0, 6.0, 3.0, 7.0, 2.0])

    def apart(script, task, *, way, subject, attacks):
        return {"seconds": {ALL: next(seconds)}, "withstood": {ALL: "1100" if way == audit_speed.THEIRS else "1010"}}

    monkeypatch.setattr(audit_speed, "apart", apart)
    table = audit_speed.time_audits([subject], ["fgsm"], (audit_speed.THEIRS, audit_speed.AUDIT), rounds=3)
    table = table.set_index("way")
    assert table["seconds"].tolist() == [7.0, 2.0]
    assert table.loc["audit", ["fastest", "slowest", "rounds", "robust %"]].tolist() == [1.0, 3.0, 3, 50.0]
    assert table["times ART + pyautoattack"].tolist() == [1.0, 3.5]
    assert table["verdicts that differ"].tolist() == [0, 2]


@pytest.mark.slow
def test_scaling_over_two_processes(audit_speed, subject, tmp_path):
    (row,) = audit_speed.time_scaling(subject, ["fgsm"], [2]).to_dict("records")
    assert (row["processes"], row["threads each"], row["n"], row["shards"], row["times"]) == (2, 1, 40, 1, 1)
    assert row["seconds"] > 0
    assert row["images / s"] == pytest.approx(40 / row["seconds"])
    alone = audit_speed.time_share(str(tmp_path), asdict(subject), ["fgsm"])
    assert alone["ended"] > alone["ready"]
    assert 0 < alone["robust %"] < 100
    assert row["robust %"] == alone["robust %"]


def test_time_runs_from_the_last_to_be_ready_to_the_last_to_end(audit_speed, subject, monkeypatch):
    def apart(script, task, processes, *, folder, subject, attacks):
        for rank in range(processes):
            times = {"ready": 10.0 + rank, "ended": 20.0 - rank, "robust %": 50.0}
            with open(f"{folder}/{rank}.json", "w") as file:
                file.write(str(times).replace("'", '"'))
        return {}

    monkeypatch.setattr(audit_speed, "apart", apart)
    table = audit_speed.time_scaling(subject, ["fgsm"], (1, 2, 4))
    assert table["seconds"].tolist() == [10.0, 9.0, 7.0]
    assert table["times"].tolist() == pytest.approx([1, 10 / 9, 10 / 7])


@pytest.mark.slow
def test_memory_of_a_folder_of_images(audit_size):
    (row,) = audit_size.measure_memory(60, 32).to_dict("records")
    assert (row["n"], row["image"], row["different files"]) == (60, "3 x 32 x 32", 60)
    assert row["images MiB"] == pytest.approx(60 * 3 * 32 * 32 * 4 / 2**20)
    assert 50 < row["idle MiB"] <= row["peak MiB"]
    assert row["above idle MiB"] == row["peak MiB"] - row["idle MiB"]
    assert row["images / s"] == pytest.approx(60 / row["seconds"])
    assert row["below 1.5 GB"] == (row["above idle MiB"] < 1.5e9 / 2**20)


def test_the_watch_sees_what_comes_and_goes(audit_size):
    before, held = audit_size._resident(), []
    with audit_size._Watch() as watch:
        while watch.peak < before + 2**26 and len(held) < 32:
            held.append(np.ones(2**24))  # 128 MiB, in pages of its own; this process may give back others meanwhile
            watch._over.wait(0.05)
    assert before + 2**26 <= watch.peak < before + (len(held) + 4) * 2**27


def test_most_images_are_links_of_a_few_files(audit_size, tmp_path):
    assert audit_size.make_images(tmp_path / "x", 50, 24, n_classes=4, different=8) == 8
    data = acw.load_dataset(tmp_path / "x")
    assert np.bincount(data.y).tolist() == [13, 13, 12, 12]
    assert data.input_shape == (3, 24, 24)
    files = list((tmp_path / "x").glob("*/*.jpg"))
    assert len({os.stat(f).st_ino for f in files}) == 8
    assert len({f.read_bytes() for f in files}) == 8


def test_without_links_files_are_copied(audit_size, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert audit_size.make_images(tmp_path / "x", 12, 24, n_classes=2, different=4) == 4
    assert len(acw.load_dataset(tmp_path / "x")) == 12


@pytest.mark.slow
def test_an_audit_of_many_models_on_disk(audit_size):
    (row,) = audit_size.measure_disk(2, 3, 1_000, 10).to_dict("records")
    assert (row["models"], row["attacks"], row["n"], row["rows"]) == (2, 3, 1_000, 6_000)
    assert row["disk MB"] == 2 * 2 * (1 + 3) * 4096 / 1e6  # of ten classes, 512 or 488 rows lie in one block
    assert row["bytes per row"] == pytest.approx(1e6 * row["disk MB"] / 6_000)
    assert min(row[f"seconds {what}"] for what in ("to write", "to read", "for summary", "for worst case")) > 0


def test_sizes_of_the_command_line(audit_speed, audit_size, monkeypatch):
    seen = []
    for name in ("time_audits", "time_scaling", "measure_memory", "measure_disk"):
        script = audit_speed if name.startswith("time") else audit_size
        monkeypatch.setattr(script, name, lambda *a, name=name: seen.append((name, *a)) or pd.DataFrame())
    given = {"cifar10": "c.npz", "checkpoints": "there"}
    audit_speed.measure(asked(**given, rounds=2), "audit")
    audit_speed.measure(asked("full", cifar10="c.npz", model="mine.pt"), "audit")
    audit_speed.measure(asked(**given, processes=4), "scaling")
    for size in ("long", "full"):
        audit_size.measure(asked(size), "memory")
        audit_size.measure(asked(size), "disk")
    long, full, scaling, *sizes = seen
    assert [(s.network, s.radius, s.n_examples) for s in long[1]] == [
        ("cifar10-cnn-a", "4/255", 1000),
        ("cifar10-resnet4b", "2/255", 256),
    ]
    assert long[2:] == (("standard",), ("ART + pyautoattack", "audit", "audit, worst case"), 2)
    assert (full[1][0].network, full[1][0].n_examples) == ("mine.pt", 10_000)
    assert full[2:] == (("pgd-20", "autoattack"), ("pyautoattack", "audit, worst case"), 1)
    assert (scaling[1].n_examples, scaling[3]) == (10_000, (1, 4))
    assert sizes == [("measure_memory", 2_000), ("measure_disk", 5), ("measure_memory", 50_000), ("measure_disk", 30)]
    for only in ("audit", "scaling"):
        with pytest.raises(SystemExit, match=f"--only {only} needs --root with cifar10_test.npz and --checkpoints"):
            audit_speed.measure(asked(), only)


def test_the_table_is_written_with_where_and_how(evaluation, monkeypatch, tmp_path, capsys):
    speed = evaluation("speed")
    measured = pd.DataFrame([{"n": 500, "image": "3 x 8 x 8", "above idle MiB": 1.5}])
    monkeypatch.setattr(speed.audit_size, "measure_memory", lambda n: measured.assign(n=n))
    speed.main(["--only", "memory", "--out", str(tmp_path)])
    written = pd.read_csv(tmp_path / "speed_quick_memory.csv").iloc[0]
    assert (written["n"], written["above idle MiB"]) == (500, 1.5)
    assert written["command"].startswith("python evaluations/speed/speed.py --size quick --only memory")
    assert "torch" in written["versions"]
    assert isinstance(written["hardware"], str)
    assert "above idle MiB" in capsys.readouterr().out
