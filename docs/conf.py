"""The site: `python -m sphinx -W -c docs . build/html`, read from build/html/index.html.

Its source is the repository itself, so that a link between two pages is the same here and on a forge, and a broken one
is an error. Nothing is fetched to build or to read it.
"""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import arrayloss

project = "arrayloss"
version = release = arrayloss.__version__
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "examples/*",
    "results/*",
    "conformance/vectors/README.md",
]
exclude_patterns = [".*", "build", "docs/_templates"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["docs/_templates"]  # autosummary looks for it from the source, not from here
html_theme = "furo"
html_title = f"arrayloss {version}"
html_show_copyright = False
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run it, and hold it to the outputs that are committed

# The docstrings have the types and mean code by single backticks.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
default_role = "py:obj"
napoleon_use_rtype = False
napoleon_use_ivar = True
maximum_signature_line_length = 60
html_math_renderer = "mathml"  # every browser has it, and it needs no script

PAGES = """
```{toctree}
:hidden:
:glob:

docs/why
examples/tutorial
docs/api
docs/*
examples/README
CONTRIBUTING
CHANGELOG
results/*
conformance/vectors/README
```
"""


def add_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """The table of contents, which a forge would show as a block of code."""
    if name == root_doc:
        source[0] += PAGES


def show_mathml(translator: Any, node: nodes.Element) -> None:
    display = "inline" if isinstance(node, nodes.math) else "block"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (show_mathml, None), (show_mathml, None))
    app.connect("source-read", add_pages)
    app.connect("build-finished", add_index)
