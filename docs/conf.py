"""How Sphinx builds these pages: `make docs`, offline, with warnings as errors."""

import pathlib
import sys

from sphinx.util.docutils import SphinxDirective

from arniqa_jax.version import __version__

_HERE = pathlib.Path(__file__).parent
# The configs, and the module `tables` beside this file.
sys.path[:0] = [str(_HERE.parent), str(_HERE)]

project = "arniqa_jax"
author = "the authors of arniqa_jax"
copyright = author
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings write names between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Fields of dataclasses are described under "Attributes:" and not again one by one.
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = f"arniqa_jax {release}"
# Without `navbar_persistent` there is a second search field above the page.
html_theme_options = {"show_toc_level": 2, "navbar_persistent": []}
html_static_path = ["_static"]
html_css_files = ["code.css"]


class _Table(SphinxDirective):
    """Inserts a table that `tables` makes from the source code.

    The argument is the name of a function of `tables`, which returns Markdown.
    """

    required_arguments = 1

    def run(self):
        import tables  # found by the path that is set above

        return self.parse_text_to_nodes(tables.TABLES[self.arguments[0]]())


def setup(app):
    """Register the directive ```{table-of} NAME```."""
    app.add_directive("table-of", _Table)
    return {"parallel_read_safe": True}
