"""What a check found as an in-toto statement, and its signature."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from art_classwise._core.files import check_output_file, written_aside
from art_classwise._core.records import Record, validation_message
from art_classwise.audit.manifest import Digest
from art_classwise.audit.result import read_audit
from art_classwise.audit.store import Store
from art_classwise.errors import InputError, first_line
from art_classwise.evidence.checking import Verification

__all__ = ["Statement", "attestation_differences", "statement", "write_attestation"]

_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"


class _Digests(Record):
    sha256: Digest


class Resource(Record):
    """A file that a statement is about, or that was tested: in-toto's ``ResourceDescriptor``.

    Attributes:
        name: Its name.
        digest: Its SHA-256.
    """

    name: str
    digest: _Digests


class TestResult(Record):
    """The ``test-result`` predicate: https://github.com/in-toto/attestation, spec/predicates/test-result.md.

    Attributes:
        result: ``"PASSED"``; ``"WARNED"`` where the audit has findings or something couldn't be checked; ``"FAILED"``.
        configuration: Files of weights and data that were tested.
        passed_tests: Names of checks in which nothing differed.
        warned_tests: Findings of the audit, and what couldn't be checked.
        failed_tests: Names of checks in which something differed.
    """

    __test__ = False  # pytest takes it for a test

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: tuple[Resource, ...]
    passed_tests: tuple[str, ...] = Field(alias="passedTests")
    warned_tests: tuple[str, ...] = Field(alias="warnedTests")
    failed_tests: tuple[str, ...] = Field(alias="failedTests")


class Statement(Record):
    """An in-toto Statement v1 about the manifest of an audit, whose SHA-256 is the root digest."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=_TYPE, alias="_type")
    subject: Annotated[tuple[Resource, ...], Field(min_length=1)]
    predicate_type: Literal["https://in-toto.io/attestation/test-result/v0.1"] = Field(
        default=_PREDICATE, alias="predicateType"
    )
    predicate: TestResult

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def statement(place: str | os.PathLike[str], found: Verification) -> Statement:
    """Return what was found as a statement.

    Args:
        place: The audit's folder, or the page in it.
        found: What :func:`art_classwise.verify` found.

    Raises:
        InputError: The audit has no root digest.
    """
    if found.root is None:
        raise InputError(
            "A statement is about a root digest, and this audit has none: it is unfinished, or of an earlier release "
            "(`art-classwise collect STORE`)."
        )
    manifest = Store(found.place).manifest()
    files = dict(manifest.examples.files)
    files |= {one.file or name: one.sha256 for name, one in manifest.sources.items() if one.sha256}
    warned = list(found.unchecked)
    if found.ok:
        result = read_audit(found.place)
        warned += [f"{finding.model or 'the audit'}: {finding.check}: {finding.saw}" for finding in result.findings]
    failed = tuple(name for name in found.checks if found.differences.get(name))
    return Statement(
        subject=(_resource("manifest.json", found.root),),
        predicate=TestResult(
            result="FAILED" if failed else "WARNED" if warned else "PASSED",
            configuration=tuple(_resource(name, of) for name, of in sorted(files.items())),
            passedTests=tuple(name for name in found.checks if name not in failed),
            warnedTests=tuple(warned),
            failedTests=failed,
        ),
    )


def _resource(name: str, sha256: str) -> Resource:
    return Resource(name=name, digest=_Digests(sha256=sha256))


def write_attestation(
    path: str | os.PathLike[str],
    place: str | os.PathLike[str],
    found: Verification,
    *,
    key: str | os.PathLike[str] | None = None,
) -> None:
    """Write a statement, and beside it, in ``PATH.sig``, its signature.

    Args:
        path: The file.
        place: The audit's folder, or the page in it.
        found: What :func:`art_classwise.verify` found.
        key: A private elliptic-curve key in a PEM file, to sign with, by model-signing; unsigned if absent.

    Raises:
        InputError: The audit has no root digest, the file can't be written, or the key or model-signing isn't there.
    """
    text = statement(place, found).to_json()
    signing = None if key is None else _model_signing("signing")
    target = check_output_file(path, "attestation.json")
    with written_aside(target) as aside:
        aside.write_text(text, encoding="utf-8")
    if signing is not None and key is not None:
        signature = Path(f"{target}.sig")
        try:
            signer = signing.Config().use_elliptic_key_signer(private_key=Path(key))
            signer.sign(target, signature)
        except Exception as error:  # of model-signing and cryptography: of any kind
            raise InputError(f"{target} can't be signed with {os.fspath(key)}: {first_line(error)}.") from error


def attestation_differences(
    path: str | os.PathLike[str], found: Verification, *, key: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return in what a statement isn't of this audit, or not of who holds a key; a sentence each.

    Args:
        path: The statement's file.
        found: What :func:`art_classwise.verify` found.
        key: The public key in a PEM file; the signature isn't checked if absent.

    Raises:
        InputError: There is no such file, it is no statement, or model-signing isn't there.
    """
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{name} can't be read: {first_line(error)}.") from error
    try:
        held = Statement.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{name} {validation_message(error)}. Is it the file that --attest wrote?") from error
    differences = []
    if found.root not in [one.digest.sha256 for one in held.subject]:
        differences.append(f"{name} is about another audit: its root digest is {held.subject[0].digest.sha256}.")
    if held.predicate.result == "FAILED":
        differences.append(f"{name} says itself that the checks failed: {', '.join(held.predicate.failed_tests)}.")
    if key is not None:
        verifying = _model_signing("verifying")
        try:
            checker = verifying.Config().use_elliptic_key_verifier(public_key=Path(key))
            checker.verify(Path(path), Path(f"{name}.sig"))
        except Exception as error:  # of model-signing and cryptography: of any kind
            differences.append(f"{name}.sig isn't a signature of it by {os.fspath(key)}: {first_line(error)}.")
    return differences


def document(found: Verification) -> dict[str, Any]:
    """Return what was found as ``--json`` prints it."""
    again = found.recomputed
    return {
        "store": found.place,
        "root": found.root,
        "checks": [
            {"name": name, "checked": said, "differences": found.differences.get(name, ())}
            for name, said in found.checks.items()
        ],
        "unchecked": found.unchecked,
        "recomputed": None
        if again is None
        else {
            "units": again.units,
            "of": again.n,
            "seed": again.seed,
            "exact": again.exact,
            "certificates": [
                {
                    "model": one.model,
                    "examples": one.examples,
                    "of": one.n,
                    "passes": one.passes,
                    "exact": one.exact,
                }
                for one in again.certificates
            ],
            "missed": {f"{share:g}": again.missed(share) for share in (0.01, 0.05, 0.1, 0.5)},
        },
    }


def _model_signing(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        raise InputError(
            f"Signatures need the package model-signing ({first_line(error)}): pip install 'art-classwise[sign]'."
        ) from error
