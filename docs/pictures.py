"""Draws the stored pictures of README and docs, and the gallery's excitations.

    make demo
    python docs/pictures.py

Needs also the attention model that `notebooks/attention_visualization.ipynb` describes,
in `demo/attention`. Screenshots (`page.png`, `library.png`, and both with the dark
theme) are taken by hand.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from tagger import Tagger, interpretation
from tagger.interpretation import figures
from tagger.weights import pretrained

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PICTURES = ROOT / "notebooks" / "pictures"
DEMO = ROOT / "demo"
SONG = DOCS / "gallery" / "music" / "orchestral" / "openclonk_urbanbolero.opus"


def main() -> None:
    """Writes all of them."""
    draw_excitations(interpretation.load_excitations(DEMO / "excitations.pkl"))
    draw_attention(Tagger(pretrained.load(DEMO / "attention" / "model.keras")))
    draw_song(Tagger(pretrained.load("musicnn_mtt")))


def save(figure, name: str) -> None:
    """Writes a picture with the resolution of a screen."""
    figure.savefig(PICTURES / f"{name}.png", dpi=130)


def draw_excitations(table: pd.DataFrame) -> None:
    """Draws the first block, and stores the means of all blocks for the gallery."""
    means = {n: interpretation.tag_excitations(table, n - 1) for n in range(1, 10)}
    arrays = {f"block{n}": one.to_numpy(np.float32) for n, one in means.items()}
    path = DOCS / "gallery" / "demo_excitations.npz"
    np.savez_compressed(path, tags=np.array(means[1].index, str), **arrays)
    tags = interpretation.most_different_tags(table)
    title = "Excitations at block 1"
    save(figures.plot_excitations(means[1], title, tags), "excitations")


def draw_attention(tagger: Tagger) -> None:
    """Draws the attention to one clip, and the contributions of two."""
    first, _ = tagger.segment(DEMO / "mp3/f/demo-0-0287-guitar_quiet.mp3")
    second, _ = tagger.segment(DEMO / "mp3/d/demo-0-0253-fast_loud_violin.mp3")
    found = interpretation.attention(tagger.model, first)
    *_, last = found.layers
    heads = found.heads(last)
    music = interpretation.spectrogram(tagger.model, first)
    figure = figures.plot_attention(
        heads.sum(axis=0)[1:],
        len(heads) * found.uniform,
        found.seconds,
        music,
        "a synthetic guitar",
    )
    save(figure, "attention")
    both = interpretation.half_and_half(first, second)
    tags = ["quiet", "loud", "guitar", "violin"]
    numbers = tagger.tag_numbers(tags)
    figure = figures.plot_contribution(
        pd.DataFrame(
            interpretation.contribution(tagger.model, both)[numbers, 1:], tags
        ),
        tagger.model.predict(both[None], verbose=0)[0, numbers],
        found.seconds,
        interpretation.spectrogram(tagger.model, both),
        "half a quiet guitar, half a loud violin",
        (tagger.segment_seconds / 2, "guitar", "violin"),
    )
    save(figure, "contribution")


def draw_song(tagger: Tagger) -> None:
    """Draws the scores of a song over time, and what raised two of them."""
    title = "Urban Bolero, heard by musicnn_mtt"
    taggram = tagger.taggram(SONG, hop_seconds=0.5)
    highest = list(tagger.named(taggram.aggregated()))[:12]
    figure = figures.plot_taggram(
        taggram.scores[:, tagger.tag_numbers(highest)],
        highest,
        taggram.seconds,
        taggram.segment_seconds,
        title,
    )
    save(figure, "taggram")
    tags = ["drums", "guitar"]
    numbers = tagger.tag_numbers(tags)
    start = taggram.seconds[taggram.scores[:, numbers].sum(axis=1).argmax()]
    segment, _ = tagger.segment(SONG, float(start))
    found = interpretation.attribute(tagger.model, segment, numbers)
    figure = figures.plot_attributions(
        {
            f"{tag}: {one.summary}": one.values
            for tag, one in zip(tags, found, strict=True)
        },
        found[0].spectrogram.from_second(float(start)),
        title,
    )
    save(figure, "attribution")


if __name__ == "__main__":
    main()
