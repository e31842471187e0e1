"""Formulas without a network: what arithmatex marks as TeX, in pages and docstrings, becomes MathML at build time."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FUNCTION = re.compile(r"<mi>(log|exp|max|min|sup|inf|cos)</mi>(?=(<mo[^>]*>&#x00028;)?)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    block = match[1] == "div"
    tex = (
        html.unescape(match[2]).strip().removeprefix(r"\[" if block else r"\(").removesuffix(r"\]" if block else r"\)")
    )
    mathml = convert(" ".join(tex.split()), display="block" if block else "inline")
    mathml = _FUNCTION.sub(_named, mathml)
    return f'<div class="formula">{mathml}</div>' if block else mathml


def _named(match: re.Match[str]) -> str:
    """A function's name as an operator, which is set with the space that TeX gives it."""
    after = "0" if match[2] else "0.17em"
    return f'<mo lspace="0.17em" rspace="{after}" movablelimits="true">{match[1]}</mo>'
