"""Sphinx configuration: `make docs` builds docs/_build/html."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tagger import __version__  # noqa: E402

project = "tagger"
author = "The authors of tagger"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"tagger {version}"
html_show_sphinx = False
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
