"""Formulas as MathML, which browsers draw by themselves: no LaTeX to build, no script to load, no network to read."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator


def mathml(node: nodes.Element, display: str) -> str:
    """Return the formula of a node as MathML, with its LaTeX source as the text that is copied and read out."""
    latex = node.astext()
    markup = convert(latex, display=display)
    unknown = "\\" in markup  # latex2mathml passes on a command that it does not know
    if unknown:
        raise ExtensionError(f"{node.source}: latex2mathml does not know all of: {latex}")
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
