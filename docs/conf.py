"""Sphinx configuration: `make docs` builds docs/_build/html."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from tagger import __version__, cli  # noqa: E402
from tagger.weights import cards, pretrained  # noqa: E402

project = "tagger"
author = "the authors of tagger"
copyright = "2026, the authors of tagger"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.py", "gallery/README.txt"]
myst_heading_anchors = 3
smartquotes = False  # would turn the -- of an option in a heading into a dash
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery/built",
    "image_scrapers": ("gallery_pictures.scrape",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
}
html_theme = "furo"
html_title = f"tagger {version}"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["style.css"]
autodoc_default_options = {
    "members": True,
    # Made by scikit-learn, whose documentation they refer to.
    "exclude-members": "set_transform_request, set_fit_request",
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
default_role = "code"


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Converts our docstrings, in which `*` is a star and diagrams are indented."""
    lines[:] = [re.sub(r"(?<![`\\])\*", r"\\*", line) for line in lines]
    if what == "module":
        converted, is_literal = [], False
        for line in lines:
            is_drawn = line.startswith(("    ", "|"))
            if is_drawn and not is_literal:
                converted += ["", "::", ""]
            if is_literal and line and not is_drawn:
                converted.append("")
            is_literal = is_drawn or (is_literal and not line)
            converted.append(f"    {line}" if is_drawn else line)
        lines[:] = converted


def commands_page() -> str:
    """Returns the help of every command as a page."""
    text = (
        "# Commands\n\nWhat `--help` prints. The options of a model and a recipe are"
        " those of the command at hand: `train.py --architecture musicnn --help`.\n"
        "`tagger --completion bash` (zsh, fish, tcsh; `pip install '.[completion]'`)"
        " prints a script that completes commands and options.\n"
    )
    for group, members in cli.COMMANDS.items():
        text += f"\n## {group}\n"
        for name in members:
            shown = cli.command(name).parser().format_help()
            text += f"\n### tagger {name}\n\n```text\n{shown}```\n"
    return text


def setup(app) -> None:
    """Converts docstrings, and writes a page of commands and one per model's card."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
    os.environ["COLUMNS"] = "80"
    pages = {Path(__file__).parent / "commands.md": commands_page()}
    for name in ("musicnn_mtt", "vgg_mtt", "musicnn_msd", "vgg_msd"):
        pretrained.path_of(name)  # or a page of the gallery shows the log of it
    folder = Path(__file__).parent / "models" / "cards"
    folder.mkdir(exist_ok=True)
    for name in pretrained.PRETRAINED:
        pages[folder / f"{name}.md"] = cards.card(name)
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
