"""The site: `python -m sphinx -W -c docs . build/html`, read from build/html/index.html.

Its source is the repository itself, so that a link between two pages is the same here and on a forge, and a broken one
is an error. Nothing is fetched to build or to read it.
"""

import inspect
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import arrayloss

project = "arrayloss"
version = release = arrayloss.__version__
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**",
    "examples/*",
    "results/*",
    "conformance/vectors/README.md",
]
exclude_patterns = [".*", "build", "docs/_templates", "docs/_static"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
autosummary_ignore_module_all = False  # the pages of arrayloss.testing and .extending are of the names in `__all__`
templates_path = ["docs/_templates"]  # autosummary looks for it from the source, not from here
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
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

# The four parts of the site. A page that is in none of them is an error.
PARTS = {
    "Start": ["docs/install", "docs/pytorch", "docs/jax", "docs/numpy", "examples/tutorial", "examples/README"],
    "How to": [
        "docs/port-from-torch",
        "docs/port-from-optax",
        "docs/port-from-keras",
        "docs/port-from-scikit-learn",
        "docs/porting",
        "docs/class-imbalance",
        "docs/large-vocabulary",
        "docs/masks-and-padding",
        "docs/scale",
        "docs/distillation",
        "docs/boosting",
        "docs/testing",
        "docs/adding-a-loss",
        "docs/check-your-library",
        "docs/architecture",
        "CONTRIBUTING",
        "SECURITY",
        "CODE_OF_CONDUCT",
    ],
    "Reference": [
        "docs/api",
        "docs/api/functions",
        "docs/api/categorical",
        "docs/api/binary",
        "docs/api/gradients",
        "docs/api/reductions",
        "docs/api/compat",
        "docs/api/modules",
        "docs/api/testing",
        "docs/api/extending",
        "docs/conformance",
        "conformance/vectors/README",
        "CHANGELOG",
    ],
    "Why it can be trusted": [
        "docs/why",
        "docs/numerics",
        "Results: the errors of arrayloss <results/conformance>",
        "Results: the errors of other libraries' losses <results/peers>",
        "Results: other libraries' losses, judged case by case <results/candidates>",
        "Results: arrayloss on dpnp and ndonnx <results/thirdparty>",
        "Results: arrayloss.compat beside the originals <results/porting>",
        "Results: planted faults that the suite finds <results/faults>",
        "docs/performance",
        "Results: time and memory <results/benchmarks>",
        "How the results were made <results/README>",
        "Appendix: the notebook behind this project, corrected <examples/original_tutorial>",
    ],
}


def add_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """The table of contents, which a forge would show as a block of code."""
    if name == root_doc:
        for part, pages in PARTS.items():
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {part}", "", *pages, "```", ""])


class ParameterTable(SphinxDirective):
    """A table of the parameters of a function or class: name, what it takes, default. From docstring and signature."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        documented = pkgutil.resolve_name(self.arguments[0])
        section = inspect.cleandoc(documented.__doc__ or "").partition("Parameters\n----------\n")[2]
        section = re.split(r"\n\n\w+\n-+\n", section)[0]
        entries = [entry.partition(" : ")[::2] for entry in re.findall(r"^[\w*].*", section, re.M)]
        signature = inspect.signature(documented).parameters
        rows = [("parameter", "takes", "default")]
        for names, takes in entries:
            for name in names.split(", "):
                parameter = signature.get(name.lstrip("*"))
                known = parameter is not None and parameter.default is not inspect.Parameter.empty
                default = f"``{parameter.default!r}``" if known and parameter else ""
                rows.append((f"``{name}``", takes.removesuffix(", optional").replace("*", r"\*"), default))
        if len(rows) == 1:
            return []
        text = [".. list-table::", "   :header-rows: 1", ""]
        for row in rows:
            text += [f"   {'* ' if not n else '  '}- {cell}" for n, cell in enumerate(row)]
        return self.parse_text_to_nodes("\n".join(text))


def show_mathml(translator: Any, node: nodes.Element) -> None:
    display = "inline" if isinstance(node, nodes.math) else "block"
    shown = convert(node.astext(), display=display)
    # As LaTeX has it: a space between log and its argument, none after a minus sign that begins a bracket, and a prime
    # that is not raised a second time.
    shown = re.sub(r"(<mi>log</mi>)(?!<mo)", r'\1<mspace width="0.167em" />', shown)
    shown = re.sub(r"(&#x00028;</mo>)<mo>(?=&#x02212;)", r'\1<mo form="prefix">', shown)
    prime, primed = r"<msubsup>(<mi>\w</mi>)(<mi>\w</mi>)<mi>(&#x02032;)</mi></msubsup>", r"<mrow>\1<mo>\3</mo></mrow>"
    shown = re.sub(prime, rf"<msub>{primed}\2</msub>", shown)
    translator.body.append(shown)
    raise nodes.SkipNode


def drop_chance_links(app: Sphinx, doctree: nodes.document) -> None:
    """The word "shape" in "array of shape (classes,)" is no reference, although some classes have a `shape`."""
    for reference in list(doctree.findall(pending_xref)):
        if reference["reftarget"] == "shape":
            reference.replace_self(reference.children)


def add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (show_mathml, None), (show_mathml, None))
    app.add_directive("parameter-table", ParameterTable)
    app.connect("source-read", add_pages)
    app.connect("doctree-read", drop_chance_links)
    app.connect("build-finished", add_index)
