"""Certificates in the folder of an audit: kept, listed in its manifest, and read if they are what it lists."""

from __future__ import annotations

import os
from collections.abc import Mapping

from art_classwise._core.fingerprints import digest
from art_classwise.audit.result import AuditResult, read_audit
from art_classwise.audit.store import Store, certificates_folder
from art_classwise.certification.result import FILE, CertifiedResult, parsed
from art_classwise.errors import InputError

__all__ = ["certificate_folder", "check_as_listed", "check_examples", "keep_certificate", "read_certificates"]

_TRIES = 8  # where another process certifies the same model


def certificate_folder(audit: str | os.PathLike[str], model: str) -> str:
    """Return the folder, within an audit's, of the certificate of one of its models.

    Args:
        audit: The audit's folder, or its address.
        model: Its name there, which may be no name of a folder.
    """
    return f"{os.fspath(audit)}/{certificates_folder(model)}"


def read_certificates(audit: str | os.PathLike[str], result: AuditResult | None = None) -> dict[str, CertifiedResult]:
    """Read the certificates in an audit's folder, which ``art-classwise certify --audit`` keeps there.

    Args:
        audit: The folder, or its address.
        result: The audit; it is read, if absent.

    Returns:
        By the names of models, as :meth:`art_classwise.AuditResult.to_html` takes them; those that aren't finished are
        left out.

    Raises:
        InputError: There is no audit; or a certificate is damaged, of other examples, or isn't the one that the audit's
            manifest lists.
    """
    if result is None:
        result = read_audit(audit)
    store, found = Store(audit), {}
    for model in result.models:
        name = f"{certificates_folder(model)}/{FILE}"
        if not store.folder.exists(name):
            continue
        place = store.folder.where(name)
        certified = parsed(store.folder.read(name), place)
        check_as_listed(store, name)
        if len(certified.examples) == certified.certificate.n_examples:
            check_examples(certified, result, model, place)
            found[model] = certified
    return found


def check_as_listed(store: Store, name: str) -> None:
    """Check that a certificate's file is the one that the audit's manifest lists, if it lists it.

    Raises:
        InputError: It isn't.
    """
    listed = store.manifest().files.get(name) if store.is_begun else None
    if listed not in (None, digest(store.folder.read(name))):
        raise InputError(
            f"{store.folder.where(name)} isn't the file that the audit's manifest lists: it was changed after it was "
            "written. Remove it, and certify again."
        )


def check_examples(certified: CertifiedResult, result: AuditResult, model: str, place: str = "") -> None:
    """Check that a certificate is of the examples of an audit.

    Args:
        certified: The certificate.
        result: The audit.
        model: Name of the model there.
        place: Where the certificate lies, if it does.

    Raises:
        InputError: It isn't.
    """
    rows = result.rows(model)
    own = certified.examples
    if rows["example"].tolist() != own["example"].tolist() or rows["label"].tolist() != own["label"].tolist():
        where, advice = (f"in {place}", ": remove it") if place else (f"of {model!r}", "")
        raise InputError(f"The certificate {where} and the audit are of different examples{advice}.")


def keep_certificate(found: CertifiedResult, store: Store, model: str, others: Mapping[str, bytes]) -> str | None:
    """Write a certificate to an audit's folder, and list its files in the manifest, as far as that lists files.

    The root digest moves with it. Whatever the manifest doesn't list stays so: of an audit that an earlier release left
    without digests, none is vouched for here.

    Args:
        found: The certificate.
        store: The audit's folder.
        model: Name of the model.
        others: Table and figure, by the files' names.

    Returns:
        As :meth:`art_classwise.audit.store.Store.seal`; None, too, where the manifest lists no files.

    Raises:
        StoreError: They can't be written.
    """
    folder = certificates_folder(model)
    contents = {f"{folder}/{name}": content for name, content in {FILE: found.to_json().encode(), **others}.items()}
    for _ in range(_TRIES):
        for name, content in contents.items():
            store.put(name, content)
        if not store.manifest().files:
            return None
        sealed = store.seal(anew=contents)
        if all(store.folder.read(name) == content for name, content in contents.items()):
            break  # else another process wrote its own meanwhile, which this seal isn't of
    return sealed
