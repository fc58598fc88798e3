"""`art-classwise verify`: what it prints, its document, its exit codes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib.resources import files

import jsonschema
import pandas as pd
import pytest
from PIL import Image

import art_classwise as acw


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and the folder of an audit of it; never changed."""
    from typer.testing import CliRunner

    from art_classwise import cli

    folder = tmp_path_factory.mktemp("verify")
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    classes = list("0123456789")
    acw.save_checkpoint(folder / "m.pt", network, architecture="digits-cnn", classes=classes, input_shape=(1, 8, 8))
    arguments = ["audit", "--model", f"m={folder / 'm.pt'}", "--examples", "40", "--attacks", "fgsm", "--no-checks"]
    done = CliRunner().invoke(
        cli.app, [*arguments, "--class", "3", "--class", "5", "--quiet", "--out", str(folder / "a")]
    )
    assert done.exit_code == 0, done.output
    return folder, done.output


@pytest.fixture
def audited(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(made[0] / "m.pt", tmp_path)
    return shutil.copytree(made[0] / "a", tmp_path / "a")


def root_of(folder):
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_the_root_stands_on_all_that_is_written(made):
    folder, out = made
    root = root_of(folder / "a")
    assert out.strip().splitlines()[-1] == f"root: {root}"
    assert f"<code>{root}</code>" in (folder / "a" / "report.html").read_text(encoding="utf-8")
    assert set(pd.read_csv(folder / "a" / "by_class.csv")["root"]) == {root}
    with Image.open(folder / "a" / "by_class.png") as image:
        assert root in image.info["Source"]
    result = acw.read_audit(folder / "a")
    assert result.roots == (root,)
    assert root in result.to_latex()
    axes = acw.figures.class_accuracy(result.class_table())
    for ending in ("svg", "pdf", "png"):
        acw.figures.save(axes, folder / f"figure.{ending}")
        assert root.encode() in (folder / f"figure.{ending}").read_bytes()
    source = result.manifest.sources["m"]
    assert source.sha256 == hashlib.sha256((folder / "m.pt").read_bytes()).hexdigest()
    (environment,) = result.manifest.environments
    assert environment.packages["torch"]
    assert re.fullmatch("[0-9a-f]{40}", environment.commit or "0" * 40)


def test_verified_computed_anew_and_attested(audited, command_line):
    """The classes and the number of examples that were audited are found by themselves."""
    arguments = ("verify", "a/report.html", "--root", root_of(audited), "--recompute", "100%", "--model", "m=m.pt")
    code, out, err = command_line(*arguments, "--quiet", "--attest", "a.json")
    assert (code, "DIFFERS" in out) == (0, False), out + err
    assert "2 of 2 units, drawn by seed" in out
    code, out, _ = command_line("verify", "a", "--attestation", "a.json", "--json")
    assert code == 0
    told = json.loads(out)
    schema = json.loads((files("art_classwise") / "schemas" / "verification-2.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(told)
    assert (told["ok"], told["root"], told["differences"]) == (True, root_of(audited), [])
    schema = json.loads((files("art_classwise") / "schemas" / "attestation-1.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((audited.parent / "a.json").read_text()))


def test_what_differs_is_exit_code_3(audited, command_line):
    code, out, _ = command_line("verify", "a", "--root", "0" * 64)
    assert code == 3
    assert "the root digest is 0000" in out
    (audited / "report.html").write_text("<p>100 %</p>")
    code, out, _ = command_line("verify", "a", "--json")
    assert code == 3
    assert ["The page is by an earlier release" in said for said in json.loads(out)["differences"]] == [True]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("verify nowhere", "holds no audit: there is no such folder"),
        ("verify a --root abc", "A root digest has 64 hexadecimal digits"),
        ("verify a --recompute 0", "--recompute takes a share of the units above 0"),
        ("verify a --recompute 101%", "--recompute takes a share"),
        ("verify a --recompute many", "--recompute takes a share"),
        ("verify a --recompute 1%", "doesn't say how to load m"),
        ("verify a --recompute 1% --model n=m.pt", "doesn't say how to load m"),
        ("verify a --recompute 1% --model m=m.pt --dataset nothing", "Unknown data set"),
        ("verify a --model m=m.pt", "for --recompute SHARE"),
        ("verify a --sign key.pem", "--sign is for the statement that --attest FILE writes"),
        ("verify a --key key.pem", "--key is for the statement of --attestation FILE"),
        ("verify a --attestation nothing.json", "nothing.json can't be read"),
        ("verify a --attest none/such", None),
    ],
)
def test_bad_input_is_one_sentence(audited, words, says, command_line):
    code, out, err = command_line(*words.split())
    if says is None:
        assert code == 0, err
        return
    assert (code, out) == (2, ""), err
    assert says in " ".join(err.split()), err
    assert err.count("error: ") == 1
