"""Formulas as MathML, which browsers draw by themselves: no LaTeX to build, no script to load, no network to read."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
BARS = {r"\lvert": "|", r"\rvert": "|", r"\lVert": r"\|", r"\rVert": r"\|"}  # which latex2mathml cannot enlarge


def mathml(node: nodes.Element, display: str) -> str:
    """Return the formula of a node as MathML."""
    latex = node.astext()
    markup = convert(re.sub(r"\\[lr][vV]ert", lambda bar: BARS[bar.group()], latex), display=display)
    if "\\" in markup:  # a command that is not known is passed on as it is
        LOGGER.warning("latex2mathml does not know all of: %s", latex, location=node)
    return markup


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    translator.body.append(f'<div class="math">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which ``html_math_renderer = "mathml"`` chooses."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
