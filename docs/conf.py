"""How Sphinx builds this documentation: offline, with every warning an error.

``sphinx-build -W docs docs/_build`` runs the gallery, draws the formulas as MathML, and takes the pages of the
repository's root (README and its like) in beside those of this folder, with their links kept.
"""

import logging
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock

import softhead

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

logging.getLogger("softhead").setLevel(logging.WARNING)  # a line for each of the gallery's fits would hide warnings

project = "softhead"
author = copyright = "The softhead developers"
version = release = softhead.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "offline_math",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]
templates_path = ["_templates"]
default_role = "py:obj"  # single backticks of docstrings: a link where they name something public
html_theme = "furo"
html_title = f"softhead {version}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["softhead.css"]
html_copy_source = False

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say more than ArrayLike
autodoc_mock_imports = ["dask", "distributed", "jax", "onnx", "torch"]  # documented also where they are not installed
with mock(["absent"]):  # whatever is taken from a mocked library must stand in annotations such as Tensor | None
    import absent
mocked = type(absent.Anything).__mro__[-2]
mocked.__or__ = mocked.__ror__ = lambda self, other: self
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "auto_gallery/backreferences",
    "doc_module": ("softhead",),
    "reference_url": {"softhead": None},
    "reset_modules": ("matplotlib", "gallery_style.apply"),
    "image_srcset": ["2x"],
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 600,  # the times of a shared machine are nobody's
    "write_computation_times": False,
    "plot_gallery": True,
    "abort_on_example_error": True,
}

# Pages of the repository's root, by their name here.
ROOT_PAGES = {
    "readme": "README.md",
    "readme-zh-cn": "README.zh-CN.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "security": "SECURITY.md",
}


def take_in(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the text of a root page in the place of its stub, and turn links across the two folders into links here."""
    text = source[0]
    if name in ROOT_PAGES:
        text = (HERE.parent / ROOT_PAGES[name]).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
    for page, path in ROOT_PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(path)}([#)])", rf"]({page}.md\1", text)
    source[0] = re.sub(r"\]\(gallery/(\w+)\.py\)", r"](auto_gallery/\1.rst)", text)


def skip_routing(app: Sphinx, kind: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out what scikit-learn makes for its routing of metadata: its links lead into its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def keep_initials(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep "C. M. Bishop" at the head of a line from becoming the third item of a list."""
    lines[:] = [re.sub(r"^(\s*)(?=[A-Z]\. )", r"\1\\", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Connect the functions above, the last one before numpydoc takes the docstring apart."""
    app.connect("source-read", take_in)
    app.connect("autodoc-skip-member", skip_routing)
    app.connect("autodoc-process-docstring", keep_initials, priority=400)
