"""Takes the pictures of the gallery: a script's variable `figure`, once per block."""

from matplotlib import pyplot
from sphinx_gallery.scrapers import figure_rst


def scrape(block, block_vars: dict, gallery_conf: dict) -> str:
    """Saves the figure that a block made, and returns the text that shows it."""
    figure = block_vars["example_globals"].pop("figure", None)
    if figure is None:
        return ""
    path = next(block_vars["image_path_iterator"])
    figure.savefig(path, dpi=150)
    pyplot.close("all")
    return figure_rst([path], gallery_conf["src_dir"])
