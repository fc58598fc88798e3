"""What the page of an audit shows besides outcomes: attacked images, and where the models are from."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import art_classwise as acw
from art_classwise.audit.manifest import ModelSource


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mine.pt"
    train = acw.load_dataset("digits", "train").first(300)
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(torch.from_numpy(train.x)), torch.from_numpy(train.y)).backward()
        optimizer.step()
    acw.save_checkpoint(path, network, architecture="digits-cnn", classes=list("0123456789"), input_shape=(1, 8, 8))
    return path


@pytest.fixture
def audit(command_line, checkpoint):
    def run(*more):
        arguments = ["--model", checkpoint, "--examples", 60, "--attacks", "fgsm,pgd-3", "--out", "out", "--no-checks"]
        code, out, err = command_line("audit", *arguments, "--quiet", *more)
        assert code == 0, err
        return out, err

    return run


def pictures(path):
    return re.findall(r'<img src="(data:image/png[^"]+)"', path.read_text())


def test_an_audit_keeps_images_and_report_shows_them_again(audit, command_line, tmp_path):
    audit()
    images = acw.read_audit("out").images
    shown = pictures(tmp_path / "out" / "report.html")
    assert len(shown) == 3 * len(images) > 15
    (images,) = (tmp_path / "out").glob("attacked_images-*.parquet")
    kept = images.stat()
    audit()  # there is nothing to do: nothing is attacked again
    assert images.stat().st_mtime_ns == kept.st_mtime_ns
    (tmp_path / "out" / "report.html").unlink()
    assert command_line("report", "out")[0] == 0
    assert pictures(tmp_path / "out" / "report.html") == shown


def test_the_page_says_what_the_models_are(audit, checkpoint, tmp_path):
    audit()
    page = (tmp_path / "out" / "report.html").read_text()
    source = acw.read_audit("out").manifest.sources["mine"]
    network = acw.load_checkpoint(checkpoint, device="cpu").model
    assert source.n_weights == sum(np.prod(p.shape) for p in network.parameters())
    for text in ("mine.<wbr>pt", "digits-<wbr>cnn", f"{source.n_weights:,}", source.weights):
        assert f">{text}<" in page
    assert str(checkpoint.parent) not in page.replace(source.weights, "").partition("Reproduce this audit")[0]


@pytest.mark.filterwarnings("default")
def test_damaged_images_are_made_anew(audit, command_line, tmp_path):
    audit()
    (path,) = (tmp_path / "out").glob("attacked_images-*.parquet")
    before = path.read_bytes()
    path.write_bytes(before[:-50])
    code, _, err = command_line("report", "out")
    assert code == 0
    assert "is damaged, so its images aren't shown" in err
    assert pictures(tmp_path / "out" / "report.html") == []
    audit()
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_an_audit_is_finished_though_its_images_fail(audit, monkeypatch, tmp_path):
    def failing(*_, **__):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("art_classwise.audit.result.attack_images", failing)
    out, err = audit()
    assert "warning: The page is without attacked images: no memory left" in err
    assert "all attacks" in out
    assert (tmp_path / "out" / "report.html").exists()


def test_sources_of_models_audited_in_turn_are_kept(audit, command_line, checkpoint, tmp_path):
    audit()
    network = acw.load_checkpoint(checkpoint, device="cpu").model
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    path = tmp_path / "other.pt"
    acw.save_checkpoint(path, network, architecture="digits-cnn", classes=list("0123456789"), input_shape=(1, 8, 8))
    options = ["--examples", 60, "--attacks", "fgsm,pgd-3", "--out", "out", "--no-checks", "--quiet"]
    code, _, err = command_line("audit", "--model", f"other={path}", *options)
    assert code == 0, err
    result = acw.read_audit("out")
    assert {name: source.file for name, source in result.manifest.sources.items()} == {
        "mine": "mine.pt",
        "other": "other.pt",
    }
    assert result.manifest.part(["other"], ["fgsm"]).sources.keys() == {"other"}


@pytest.mark.parametrize("origin", [None, True, "a text", {"file": 3, "architecture": ["x"]}, {"other": "x"}])
def test_an_attribute_of_the_users_is_no_source(origin):
    classifier = acw.as_classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), (1, 2, 2), 2)
    classifier.origin = origin
    source = ModelSource.of(classifier)
    assert (source.file, source.architecture, source.n_weights) == (None, "Sequential", 10)
