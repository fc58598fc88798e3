"""``certify``, and what an audit's page shows of a certificate in its folder."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import jsonschema
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise._core.fingerprints import digest
from art_classwise.audit.store import Store
from art_classwise.certification import CertifiedResult, read_certificate
from art_classwise.certification.kept import certificate_folder, read_certificates
from art_classwise.evidence import verify
from art_classwise.report import render, write_report
from art_classwise.report.certified import by_class_grid, shown_certificate

DATA = ("--dataset", "digits", "--examples", "40")
HOW = ("--noise", "0.25", "--samples", "30", "--selection", "10")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A checkpoint of a network that is right sometimes, and an audit of it."""
    folder = tmp_path_factory.mktemp("certify")
    data = acw.load_dataset("digits", "train").first(300)
    module = acw.build("digits-cnn", data.input_shape, 10, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    acw.save_checkpoint(
        folder / "net.pt", module.eval(), architecture="digits-cnn", classes=data.classes, input_shape=(1, 8, 8)
    )
    test = acw.load_dataset("digits", "test", n_examples=40)
    classifier = acw.load_checkpoint(folder / "net.pt", device="cpu")
    audit = acw.ClassWiseAudit("L2:0.2", "fgsm", store=folder / "audit", verbose=False)
    write_report(audit.evaluate({"net": classifier}, test), folder / "audit")
    return folder


def test_it_prints_and_keeps_what_certify_returns(network, command_line, tmp_path):
    model, where = ("--model", network / "net.pt"), ("--out", tmp_path / "c")
    code, out, err = command_line("certify", *model, *DATA, *HOW, *where, "--radii", "0,1/10,0.3", "--quiet")
    assert (code, err) == (0, "")
    classifier = acw.load_checkpoint(network / "net.pt", device="cpu")
    data = acw.load_dataset("digits", "test", n_examples=40)
    ours = acw.certify(classifier, data, noise=0.25, n=30, n_selection=10, verbose=False)
    kept = read_certificate(tmp_path / "c")
    assert kept.examples.equals(ours.examples)
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    summary = ours.summary([0, 0.1, 0.3])
    assert re.search(rf"0\.1 +{100 * summary.at[0.1, 'mean']:.1f} \(", out)
    assert re.search(r"0\.3 +– +– +– +–", out)  # beyond what 30 samples can certify
    table = ours.certified_at([0, 0.1, 0.3])
    table = table[table["n"] > 0]
    first = next(line for line in out.splitlines() if re.match(r" ?\d +\d+ ", line))
    lowest = table.groupby("class")["certified"].sum().min()
    of = table.xs(first.split()[0], level="class")["certified"]
    assert of.sum() == pytest.approx(lowest)
    assert f"{100 * of[0.1]:.1f} (" in first
    assert {"certificate.json", "certified.csv", "certified.png"} == {p.name for p in (tmp_path / "c").iterdir()}
    code, out, err = command_line("certify", *model, *DATA, *HOW, *where, "--json")
    told = json.loads(out)
    schema = json.loads((files("art_classwise") / "schemas" / "certificate-2.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(told)
    assert told["root"] is None
    assert (told["model"], told["norm"], told["noise"], told["n"]) == ("net", "L2", 0.25, 30)
    assert [row["radius"] for row in told["radii"]] == ours.radii
    for row in told["radii"]:
        by_class = ours.certified_at(row["radius"])["certified"]
        assert [one["certified"] for one in row["classes"]] == by_class.astype(object).where(
            by_class.notna(), None
        ).tolist()
        assert row["held_out"] == ours.summary(row["radius"])["held_out"].iloc[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "There is no certificate without noise: give its standard deviation, --noise 0.25"),
        (("--noise", "0"), "--noise must be a finite number above 0, but got 0.0"),
        (("--noise", "nan"), "--noise must be a finite number above 0"),
        (("--noise", "0.2", "--samples", "0"), "--samples must be"),
        (
            ("--noise", "0.2", "--samples", "5"),
            "With 5 samples nothing can be certified at --alpha 0.001: take at least 10",
        ),
        (("--noise", "0.2", "--alpha", "0.5"), "--alpha must be"),
        (("--noise", "0.2", "--selection", "0"), "--selection must be"),
        (("--noise", "0.2", "--radii", "0.3,0.1"), "--radii must rise, but 0.1 follows 0.3"),
        (("--noise", "0.2", "--radii=-1"), "--radii must be radii of at least 0"),
        (("--noise", "0.2", "--radii", "0,b"), "--radii takes a radius such as 0.03 or 8/255"),
        (("--noise", "0.2", "--radii", "1/0"), "--radii takes a radius such as 0.03 or 8/255"),
        (("--noise", "0.2", "--audit", "none"), "none holds no audit"),
        (("--noise", "0.2", "--audit", "{audit}", "--out", "c"), "--out is for certificates on their own"),
        (("--noise", "0.2", "--audit", "{audit}"), "is of other examples: give --dataset, --examples"),
        (
            ("--noise", "0.2", "--audit", "{audit}", "--model", "b={model}"),
            "'b'. Known: net. Name it so: --model NAME=",
        ),
        (("--noise", "0.2", "--audit", "{audit}", "--examples", "40", "--model", "net={other}"), "has other weights"),
        (("--noise", "0.2", "--model", "robustbench:none"), "Unknown RobustBench data set 'digits'"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(options, says, network, command_line):
    other = acw.build("digits-cnn", (1, 8, 8), 10, seed=3)
    acw.save_checkpoint(
        network / "other.pt",
        other,
        architecture="digits-cnn",
        classes=[str(k) for k in range(10)],
        input_shape=(1, 8, 8),
    )
    places = {"audit": network / "audit", "model": network / "net.pt", "other": network / "other.pt"}
    given = ("--model", network / "net.pt", "--examples", 20, *(text.format(**places) for text in options))
    code, out, err = command_line("certify", *given, "--quiet")
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_an_audits_page_shows_its_certificates(network, command_line):
    folder = network / "audit"
    code, out, err = command_line("certify", "--model", network / "net.pt", *DATA, *HOW, "--audit", folder, "--quiet")
    assert (code, err) == (0, "")
    assert certificate_folder(folder, "net") == f"{folder}/certificates/net"
    result = acw.read_audit(folder)
    assert result.roots
    found = read_certificates(folder, result)
    page = (folder / "report.html").read_text()
    assert page == render(result, found)
    assert "Gaussian noise 0.25" in page
    assert 'id="certified"' in page
    assert 'id="certified"' not in render(result)
    result.to_html(folder / "by_hand.html", certificates=acw.certification.read_certificates(folder))
    assert (folder / "by_hand.html").read_text() == page
    part = CertifiedResult(found["net"].examples.iloc[1:], found["net"].certificate)
    for wrong, says in (
        ({"other": found["net"]}, "Unknown model of a certificate 'other'. Known: net"),
        ({"net": part}, "The certificate of 'net' and the audit are of different examples."),
        ({"net": folder}, "`certificates` are what certify"),
    ):
        with pytest.raises(acw.InputError, match=says):
            result.to_html(folder / "by_hand.html", certificates=wrong)
    checked = verify(folder, recompute=0.1, seed=0, models={"net": acw.load_checkpoint(network / "net.pt")})
    assert checked.ok, str(checked)
    (again,) = checked.recomputed.certificates
    assert (again.exact, len(again.examples), again.passes) == (True, 4, 4 * 40)
    listed = Store(folder).manifest().files
    for name in ("certificate.json", "certified.csv", "certified.png"):
        assert listed[f"certificates/net/{name}"] == digest((folder / "certificates" / "net" / name).read_bytes())
    assert out.splitlines()[-1] == f"root: {checked.root}"
    # Other radii make another table, whose digest counts from then on; the root moves with it.
    code, _, err = command_line(
        *("certify", "--model", network / "net.pt", *DATA, *HOW, "--audit", folder, "--quiet", "--radii", "0,0.1")
    )
    assert (code, err) == (0, "")
    assert verify(folder).ok
    assert verify(folder).root != checked.root
    page = (folder / "report.html").read_text()
    (folder / "report.html").write_text(page.replace("Gaussian noise 0.25", "Gaussian noise 0.5"))
    assert not verify(folder).ok
    # What was changed since isn't gone on from.
    kept = folder / "certificates" / "net" / "certificate.json"
    content = kept.read_text()
    kept.write_text(content.replace('"prediction": [', '"prediction": [ '))
    code, _, err = command_line("certify", "--model", network / "net.pt", *DATA, *HOW, "--audit", folder, "--quiet")
    assert code == 2
    assert "isn't the file that the audit's manifest lists" in err
    kept.write_text(content)
    shown = shown_certificate(found["net"], result, "net")
    beside = found["net"].beside(result)
    assert {one.name: one.certified.value for one in shown.beside} == beside["certified"].to_dict()
    assert all(one.undecided is None for one in shown.beside)  # of smoothing, nothing follows


def test_names_of_models_are_no_paths():
    for name in ("..", "a/b", ".", "c:\\d", "é"):
        part = certificate_folder("here", name).removeprefix("here/certificates/")
        assert re.fullmatch(r"[\w%-]+", part, re.ASCII), name


def test_many_classes_and_radii_fit_the_terminal():
    import numpy as np
    import pandas as pd

    from art_classwise.certification import Certificate, CertifiedResult

    of = {"dataset": "d", "split": "test", "examples": "e", "model": "m", "weights": "w", "n_examples": 400}
    certificate = Certificate(
        method="interval",
        norm="Linf",
        alpha=0.0,
        reach=1.0,
        classes=tuple(f"a very long name {k}" for k in range(40)),
        **of,
    )
    rng = np.random.default_rng(0)
    columns = {"example": np.arange(400), "label": np.arange(400) % 38, "prediction": np.arange(400) % 38}
    found = CertifiedResult(pd.DataFrame({**columns, "radius": rng.random(400)}), certificate)
    grid = by_class_grid(found, "net", np.linspace(0, 1.2, 12).tolist())
    assert max(map(len, grid.text().splitlines())) <= 80
    assert "20 more classes in certified.csv" in grid.notes
    assert any("more radii in certified.csv" in note for note in grid.notes)
    every = by_class_grid(found, "net", [0.0, 0.5, 1.2], 10**6)
    assert len(every.rows) == 40
    assert every.rows[-1][2:] == ["–", "–", "–"]  # without examples
    assert "–: beyond 1, the largest radius that could be certified" in every.notes
