"""Requirements as texts: which measure of which model has to be at least, or at most, how large."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from art_classwise.errors import InputError, unknown

__all__ = ["MEASURES", "Measure", "Requirement", "parsed"]


@dataclass(frozen=True)
class Measure:
    """Something that a requirement may be about.

    Attributes:
        name: As it is written.
        says: What it is, a clause.
        low: The smallest value that it can have.
        high: The largest.
        clean: Whether it is also known of accuracy without attack.
        difference: Whether it is also known of the difference of two.
        counts: Whether it is a whole number rather than a fraction.
        percent: Whether it is shown in percent, as an accuracy is.
    """

    name: str
    says: str
    low: float = 0.0
    high: float = 1.0
    clean: bool = True
    difference: bool = False
    counts: bool = False
    percent: bool = True


MEASURES: Final = {
    one.name: one
    for one in (
        Measure("mean", "mean of the class accuracies", difference=True),
        Measure("worst", "accuracy of the worst class", difference=True),
        Measure("overall", "accuracy over all examples", difference=True),
        Measure("class", "accuracy of a class, class:NAME", difference=True),
        Measure("gap", "best minus worst class accuracy"),
        Measure("tail20", "mean of the worst fifth of the class accuracies"),
        Measure("sd", "standard deviation of the class accuracies"),
        Measure("nsd", "the same, divided by their mean", high=math.inf, percent=False),
        Measure("cv", "variance of the class accuracies", percent=False),
        Measure("gini", "Gini coefficient of the class accuracies", percent=False),
        Measure("findings", "number of findings, or findings:CHECK", high=math.inf, clean=False, counts=True),
        Measure("examples", "number of examples", high=math.inf, clean=False, counts=True),
    )
}
"""What a requirement may be about, by name."""

_COMPARED: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": lambda value, bound: value >= bound - _ROUNDING,
    "<=": lambda value, bound: value <= bound + _ROUNDING,
    ">": lambda value, bound: value > bound + _ROUNDING,
    "<": lambda value, bound: value < bound - _ROUNDING,
    "==": operator.eq,
}
_ROUNDING = 1e-12  # the mean of 0.2 and 0.4 isn't quite 0.3
_SYNONYMS = {"≥": ">=", "≤": "<="}
_OPERATOR = re.compile(r"[<>=!]=|=[<>]|[<>=≥≤]")
_NAMED = ("class", "findings")
_PREFIXES = ("difference", "clean")
_ESTIMATE = "estimate"
_FORM = "Write it as in 'worst >= 0.30', 'class:cat >= 25%', 'MODEL/mean@ATTACK >= 0.5' or 'findings == 0'"
_QUOTES = "Names that hold < > = @ / or begin with a quotation mark stand in quotes, as in 'class:\"a/b\" >= 0.3'"


@dataclass(frozen=True)
class Requirement:
    """What a model, or a comparison, has to reach.

    A text is ``SUBJECT OPERATOR BOUND``, as in ``"worst >= 0.30"``, with

    - SUBJECT ``[MODEL/]MEASURE[@ATTACK]``: without a model, each has to meet it; without an attack, under all attacks
      together. MEASURE is ``mean``, ``worst``, ``overall``, ``class:NAME``, ``gap``,
      ``tail20``, ``sd``, ``nsd``, ``cv``, ``gini``, ``findings``, ``findings:CHECK`` or ``examples``. ``clean:`` before
      it asks for accuracy without attack, and ``clean`` alone is ``clean:mean``. ``difference:`` asks a comparison for
      the first's ``mean``, ``worst``, ``overall`` or ``class:NAME`` less the second's.
    - OPERATOR ``>=``, ``>``, ``<=`` or ``<``; of counts also ``==``.
    - BOUND a number: ``0.3``, ``30%`` or ``3/10``.

    A lower bound is held against the low end of the measure's interval and an upper bound against the high end; with
    ``@estimate`` at the end, against the number itself. A name that holds an operator, ``@`` or ``/`` stands in
    quotation marks, in which a backslash escapes one.

    Attributes:
        text: As it was written.
        measure: Name of the measure.
        name: Of the class, or of the check whose findings are counted.
        operator: How it is compared.
        bound: What with; a fraction or a count.
        kind: ``"robust"`` or ``"clean"``.
        difference: Whether it is about the difference of two.
        model: The model that it is about; None for each.
        attack: The attack; None for all together.
        on_estimate: Whether the number itself is judged, in place of an end of its interval.
    """

    text: str
    measure: str
    name: str | None
    operator: str
    bound: float
    kind: str = "robust"
    difference: bool = False
    model: str | None = None
    attack: str | None = None
    on_estimate: bool = False

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement.

        Raises:
            InputError: It has another form, names no measure, or no value could ever meet it, or fail it.

        Example:
            >>> Requirement.parse("mine/class:traffic light@pgd-20 >= 30 %").bound
            0.3
        """
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"A requirement is a text, but got {text!r:.60}. {_FORM}.")
        shown = text.strip()
        parts = _tokens(shown)
        places = [i for i, (kind, _) in enumerate(parts) if kind == "operator"]
        if len(places) != 1:
            how = "has no comparison" if not places else "has several comparisons: require each by itself"
            raise InputError(f"The requirement {shown!r} {how}. {_FORM}. {_QUOTES}.")
        (place,) = places
        left, right = parts[:place], parts[place + 1 :]
        sign = _SYNONYMS.get(parts[place][1], parts[place][1])
        if sign not in _COMPARED:
            raise unknown(f"comparison in {shown!r}:", sign, _COMPARED)
        left, attack, early = _attack(left, shown)
        number, late = _number(right)
        model, left = _model(left)
        prefixes, measure, name = _measure(left, shown)
        made = cls(
            text=shown,
            measure=measure.name,
            name=name,
            operator=sign,
            bound=_bound(number, measure, sign, "difference" in prefixes, shown),
            kind="clean" if "clean" in prefixes else "robust",
            difference="difference" in prefixes,
            model=model,
            attack=attack,
            on_estimate=early or late,
        )
        made._check()
        return made

    def is_met(self, value: float) -> bool:
        """Return whether a number meets the bound; up to rounding, 1e-12. NaN never does."""
        return bool(_COMPARED[self.operator](value, self.bound))

    @property
    def is_lower_bound(self) -> bool:
        """Whether more is better."""
        return self.operator in (">=", ">")

    def __str__(self) -> str:
        return self.text

    def _check(self) -> None:
        measure = MEASURES[self.measure]
        if self.operator == "==" and not measure.counts:
            raise InputError(f"{self.text!r}: an accuracy from examples is never exactly a number. Use >= or <=.")
        if self.kind == "clean" and not self.difference and not measure.clean:
            raise InputError(f"{self.text!r}: {self.measure} has no `clean:`.")
        if self.kind == "clean" and self.attack is not None:
            raise InputError(f"{self.text!r}: clean accuracy is without attack: remove @{self.attack}.")
        if self.difference and self.kind == "clean":
            raise InputError(f"{self.text!r}: a comparison is of clean or of robust accuracy (--clean): remove clean:.")
        if self.difference and not measure.difference:
            known = [m.name for m in MEASURES.values() if m.difference]
            raise InputError(f"{self.text!r}: of {self.measure} no difference is known, only of {', '.join(known)}.")
        if self.difference and self.attack is not None:
            raise InputError(
                f"{self.text!r}: the comparison says under which attack (--attack): remove @{self.attack}."
            )
        if self.measure == "examples" and self.attack is not None:
            raise InputError(f"{self.text!r}: the examples are the same under each attack: remove @{self.attack}.")
        if self.measure == "findings" and self.attack is not None:
            raise InputError(f"{self.text!r}: findings are about all attacks: remove @{self.attack}.")


def parsed(requirements: Requirement | str | Iterable[Requirement | str]) -> tuple[Requirement, ...]:
    """Return requirements of texts, or as they are; one alone, too.

    Raises:
        InputError: One has another form, or is given twice.
    """
    several = [requirements] if isinstance(requirements, (str, Requirement)) else list(requirements)
    made = tuple(one if isinstance(one, Requirement) else Requirement.parse(one) for one in several)
    twice = next((one.text for i, one in enumerate(made) if one in made[:i]), None)
    if twice is not None:
        raise InputError(f"The requirement {twice!r} is given twice.")
    return made


_Token = tuple[str, str]


def _tokens(text: str) -> list[_Token]:
    """Part a text into operators, "@" and "/", names in quotes, and what lies between."""
    parts: list[_Token] = []
    plain, i = "", 0

    def end() -> None:
        nonlocal plain
        if plain.strip():
            parts.append(("text", plain.strip()))
        plain = ""

    while i < len(text):
        c = text[i]
        before = plain.strip()
        if c in "\"'" and (not before or before.endswith(":")):  # not the apostrophe within a name
            end()
            close = re.compile(rf"(?:[^{c}\\]|\\.)*{c}", re.DOTALL).match(text, i + 1)
            if close is None:
                raise InputError(f"In the requirement {text!r}, a quotation mark is not closed.")
            parts.append(("quoted", re.sub(r"\\(.)", r"\1", close[0][:-1], flags=re.DOTALL)))
            i = close.end()
        elif found := _OPERATOR.match(text, i):
            end()
            parts.append(("operator", found[0]))
            i = found.end()
        elif c in "@/":
            end()
            parts.append((c, c))
            i += 1
        else:
            plain += c
            i += 1
    end()
    return parts


def _attack(parts: Sequence[_Token], text: str) -> tuple[list[_Token], str | None, bool]:
    """Part an attack from a subject, and whether the estimate is asked for."""
    rest = list(parts)
    asked = rest[-2:] == [("@", "@"), ("text", _ESTIMATE)]
    rest = rest[:-2] if asked else rest
    at = [i for i, (kind, _) in enumerate(rest) if kind == "@"]
    if not at:
        return rest, None, asked
    name = _joined(rest[at[0] + 1 :])
    if len(at) > 1 or not name:
        raise InputError(f"In the requirement {text!r}, one attack has to stand after @. {_FORM}. {_QUOTES}.")
    return rest[: at[0]], name, asked


def _model(parts: list[_Token]) -> tuple[str | None, list[_Token]]:
    """Part a model from a subject; a class that is named first may have "/" in its name."""
    slash = next((i for i, (kind, _) in enumerate(parts) if kind == "/"), None)
    known = re.compile(rf"(?:(?:{'|'.join(_PREFIXES)})\s*:\s*)*(?:{'|'.join(_NAMED)})\s*:", re.IGNORECASE)
    if not slash or (parts[0][0] == "text" and known.match(parts[0][1])):
        return None, parts
    return _joined(parts[:slash]), parts[slash + 1 :]


def _measure(parts: Sequence[_Token], text: str) -> tuple[list[str], Measure, str | None]:
    """Return what stands before a measure, the measure, and the name that belongs to it."""
    if not parts:
        raise InputError(f"The requirement {text!r} has no measure. {_FORM}.")
    (kind, first), *others = parts
    words = first if kind == "text" else ""
    prefixes: list[str] = []
    while found := re.match(rf"({'|'.join(_PREFIXES)})\s*(:\s*|$)", words, re.IGNORECASE):
        prefixes.append(found[1].lower())
        words = words[found.end() :]
        if not found[2]:
            break
    if not words and prefixes[-1:] == ["clean"] and not others:
        words = "mean"
    measure, colon, name = (part.strip() for part in words.partition(":"))
    if measure.lower() not in MEASURES or kind != "text":
        given = _joined(parts)
        known = [m if m != "class" else "class:NAME" for m in MEASURES]
        raise unknown(f"measure in the requirement {text!r}:", given, known, hint=f"{_QUOTES}.")
    of = MEASURES[measure.lower()]
    named = _joined([("text", name), *others]) if name else _joined(others)
    if of.name == "class" and not named:
        raise InputError(f"The requirement {text!r} names no class: write class:NAME.")
    if named and (of.name not in _NAMED or not colon):
        raise InputError(f"In the requirement {text!r}, {named!r} after {of.name} has no meaning. {_FORM}. {_QUOTES}.")
    return prefixes, of, named or None


def _joined(parts: Sequence[_Token]) -> str:
    return "".join(value for _, value in parts)


def _number(parts: Sequence[_Token]) -> tuple[str, bool]:
    """Return a bound as it is written, and whether "@estimate" stands after it."""
    asked = list(parts[-2:]) == [("@", "@"), ("text", _ESTIMATE)]
    return _joined(parts[:-2] if asked else parts), asked


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?"


def _bound(written: str, measure: Measure, sign: str, difference: bool, text: str) -> float:
    """Return a bound as a fraction, or a count.

    Raises:
        InputError: It is no number, or out of range.
    """
    form = re.fullmatch(rf"({_NUMBER})(?:/({_NUMBER}))?\s*(%?)", written.lower())
    if form is None:
        raise InputError(f"In the requirement {text!r}, {written!r} is no number. Write 0.30, 30% or 3/10.")
    divisor = Fraction(form[2] or 1)
    if divisor == 0:
        raise InputError(f"In the requirement {text!r}, {written!r} divides by zero.")
    exact = Fraction(form[1]) / divisor / (100 if form[3] else 1)
    if measure.counts and (form[3] or exact.denominator != 1 or not 0 <= exact < 2**53):
        raise InputError(f"{text!r}: {measure.name} is a whole number of at least 0, but the bound is {written}.")
    low, high = (-1.0, 1.0) if difference else (measure.low, measure.high)
    if not low <= exact <= high:
        percents = f" or {float(exact):g}%" if not form[3] and low <= exact / 100 <= high else ""
        hint = f" Did you mean {float(exact / 100):g}{percents}?" if percents else ""
        if not difference and measure.difference and -1 <= exact < 0:
            hint = f" A difference is written difference:{measure.name}."
        what = "a difference" if difference else measure.name
        raise InputError(f"{text!r}: {what} lies between {low:g} and {high:g}, but the bound is {written}.{hint}")
    bound = float(exact)
    least, most = bound == low, bound == high
    if (sign == ">=" and least) or (sign == "<=" and most):
        raise InputError(f"{text!r} holds whatever comes: choose another bound.")
    if (sign == ">" and most) or (sign == "<" and least):
        raise InputError(f"{text!r} can never hold: choose another bound.")
    return bound
