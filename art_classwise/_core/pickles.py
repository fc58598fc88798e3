"""Objects sent to other processes: networks as ART classifiers, functions and classes of the user's own."""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cloudpickle
import torch
from art.estimators.classification import PyTorchClassifier

from art_classwise.errors import InputError, first_line

__all__ = ["Sent", "pickled", "unpickled"]


def pickled(value: Any, what: str) -> bytes:
    """Return an object as bytes that another process makes it of again; networks lie on the CPU there.

    Args:
        value: The object. Functions and classes that can't be imported there are sent whole.
        what: What to call it in a message.

    Raises:
        InputError: It can't be sent.
    """
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer, pickle_module=_SENDING)
    except Exception as error:  # of the object's own code: of any kind
        raise InputError(
            f"{what} can't be sent to other processes: {first_line(error)}. Give a function without arguments that "
            "makes it there."
        ) from error
    return buffer.getvalue()


def unpickled(content: bytes, what: str) -> Any:
    """Return the object that :func:`pickled` made bytes of, which runs its code.

    Raises:
        InputError: It can't be made again here.
    """
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=_RECEIVING)
    except Exception as error:  # of the object's own code: of any kind
        raise InputError(
            f"{what} can't be made again in this process: {first_line(error)}. Does it import modules that are "
            "missing here?"
        ) from error


@dataclass(frozen=True)
class Sent:
    """An object as bytes, with what tells it from others: a worker that has it needn't make it again."""

    content: bytes
    digest: str

    @classmethod
    def of(cls, value: Any, what: str) -> Sent:
        """Return an object as bytes.

        Raises:
            InputError: It can't be sent.
        """
        content = pickled(value, what)
        return cls(content, hashlib.sha256(content).hexdigest())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sent) and other.digest == self.digest


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        """Send ART's classifiers by their attributes: ART itself writes the network to a file of this machine."""
        if isinstance(obj, PyTorchClassifier):
            attributes = vars(obj) | {"_device": torch.device("cpu")}
            return copyreg.__newobj__, (type(obj),), attributes, None, None, _set_attributes  # type: ignore[attr-defined]
        return super().reducer_override(obj)


def _set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    vars(obj).update(attributes)


_SENDING: Any = SimpleNamespace(Pickler=_Pickler, __name__="cloudpickle")
_RECEIVING: Any = pickle
