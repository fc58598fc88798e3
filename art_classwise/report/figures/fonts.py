"""Fonts for names in any script: after the reader's own come those installed that have other letters."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib import font_manager

__all__ = ["families", "in_any_script"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# One of each line is taken: they have the same letters. Those of Linux first, then of macOS, then of Windows.
_FALLBACKS = (
    (
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Noto Sans CJK KR",
        "Noto Sans CJK TC",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "WenQuanYi Micro Hei",
        "Droid Sans Fallback",
        "PingFang SC",
        "Hiragino Sans GB",
        "Heiti SC",
        "Microsoft YaHei",
        "SimHei",
        "Arial Unicode MS",
        "Unifont",
    ),
    ("Noto Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic", "Hiragino Sans", "Yu Gothic", "Meiryo", "MS Gothic"),
    ("Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic"),
    ("Noto Sans Arabic", "Noto Naskh Arabic", "Geeza Pro", "Segoe UI"),
    ("Noto Sans Hebrew", "Arial Hebrew"),
    ("Noto Sans Devanagari", "Lohit Devanagari", "Kohinoor Devanagari", "Nirmala UI"),
    ("Noto Sans Bengali", "Lohit Bengali", "Kohinoor Bangla"),
    ("Noto Sans Tamil", "Lohit Tamil", "Tamil Sangam MN"),
    ("Noto Sans Thai", "Loma", "Thonburi", "Leelawadee UI", "Tahoma"),
    ("Noto Sans Symbols2", "Symbola", "Apple Symbols", "Segoe UI Symbol"),
)


def families() -> list[str]:
    """Return the reader's font families, and after them one for each script that they may lack, where installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = (next((name for name in alike if name in installed), None) for alike in _FALLBACKS)
    return [*dict.fromkeys([*mpl.rcParams["font.family"], *filter(None, found)])]


def in_any_script(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function that draws take letters that the reader's font lacks from others."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Not mpl.rc_context(), which would put back what a notebook sets up with the first figure.
        own = mpl.rcParams["font.family"]
        mpl.rcParams["font.family"] = families()
        try:
            return draw(*args, **kwargs)
        finally:
            mpl.rcParams["font.family"] = own

    return drawn
