"""`python -m tagger explain`: pictures, arrays and one page about a recording.

DIR
├── report.html           the page; pictures and sound are inside it
├── taggram.png, .svg     scores over the whole file
├── attribution.png …     which times and frequencies raised the scores
├── attribution_TAG.wav   the music filtered by that
├── attention.png …       of a model that has attention: where it looks,
├── contribution.png …    and what each moment alone would score
├── excitations.png …     of a model that has SE blocks: their gates
└── arrays.npz            what the pictures show
"""

import base64
import dataclasses
import tempfile
import warnings
from pathlib import Path

import jinja2
import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from tagger import plotting
from tagger.audio import write_audio
from tagger.interpretation import attention_maps, attributions
from tagger.interpretation.spectrograms import spectrogram
from tagger.layers import SelfAttention, SqueezeExcitation
from tagger.tagging import Tagger, Taggram

NUM_TAGGRAM_TAGS = 15
SILENCE = 1e-4  # of full scale, -80 dB


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Attributes:
        name: Of its files, without ending.
        title: Above it on the page.
        text: What it shows and how to read it.
        source: The paper.
        figure: It.
    """

    name: str
    title: str
    text: str
    source: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """The window of a recording that is explained.

    Attributes:
        name: Of the file.
        waveform: float32 [num_samples].
        start_seconds: Where it begins in the file.
        taggram: Of the whole file.
    """

    name: str
    waveform: np.ndarray
    start_seconds: float
    taggram: Taggram


def explain(
    tagger: Tagger,
    path: str,
    output_dir: str,
    tags: list[str] | None = None,
    second_path: str | None = None,
    start_seconds: float | None = None,
    num_tags: int = 3,
) -> list[Path]:
    """Writes all that can be said about why a model tags a recording as it does.

    Args:
        tagger: The model.
        path: Audio of any length; memory is bounded. A window of it is explained.
        output_dir: Folder to write to; made if need be.
        tags: What is explained; None: the `num_tags` highest of the file.
        second_path: Other audio, whose start follows the first one's within a window:
            the contributions of two clips beside each other.
        start_seconds: Where the window begins; None: where the tags score highest.
        num_tags: See tags.

    Returns:
        The files, the page first.

    Raises:
        AudioDecodeError: a file cannot be decoded.
        ValueError: a tag is unknown; the start is behind the end; a second file for a
            model without attention.
    """
    numbers = None if tags is None else tagger.tag_numbers(tags)
    if second_path is not None:
        attention_maps.attention_layers(tagger.model)
    excerpt = _excerpt(tagger, path, numbers, start_seconds, num_tags)
    means = excerpt.taggram.scores.mean(axis=0)
    if numbers is None:
        numbers = [int(n) for n in np.argsort(-means, kind="stable")[:num_tags]]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, arrays = [], {"tags": np.array(tagger.tags)}
    sounds = {"as it is": excerpt.waveform}
    makers = [_taggram, _attribution]
    if any(isinstance(layer, SelfAttention) for layer in tagger.model.layers):
        makers += [_attention, _contribution]
        if second_path is not None:
            second = _excerpt(tagger, second_path, numbers, None, num_tags)
            makers.append(lambda *args: _two_clips(*args, second))
    if any(isinstance(layer, SqueezeExcitation) for layer in tagger.model.layers):
        makers.append(_gates)
    for maker in tqdm(makers, "Explaining", unit="picture", disable=None):
        made, more_arrays, more_sounds = maker(tagger, excerpt, numbers)
        pictures += made
        arrays |= more_arrays
        sounds |= more_sounds
    files = []
    sample_rate = tagger.info.sample_rate
    for picture in pictures:
        for ending in ("png", "svg"):
            files.append(folder / f"{picture.name}.{ending}")
            plotting.save(picture.figure, files[-1])
    for name, waveform in list(sounds.items())[1:]:
        files.append(folder / f"attribution_{_file_name(name)}.wav")
        write_audio(files[-1], waveform, sample_rate)
    files.append(folder / "arrays.npz")
    np.savez_compressed(files[-1], **arrays)
    page = folder / "report.html"
    shown = [int(n) for n in np.argsort(-means, kind="stable")[:10]]
    shown += [number for number in numbers if number not in shown]
    page.write_text(
        _page().render(
            excerpt=excerpt,
            model=tagger.info.name,
            end_seconds=excerpt.start_seconds + excerpt.taggram.window_seconds,
            scores=[(tagger.tags[n], float(means[n])) for n in shown],
            sounds={
                name: _mp3(waveform, sample_rate) for name, waveform in sounds.items()
            },
            pictures=[
                (picture, _data(folder / f"{picture.name}.png", "image/png"))
                for picture in pictures
            ],
        ),
        encoding="utf-8",
    )
    return [page, *files]


def _excerpt(
    tagger: Tagger,
    path: str,
    numbers: list[int] | None,
    start_seconds: float | None,
    num_tags: int,
) -> Excerpt:
    """Scores a file and keeps one window of it."""
    kept, highest, places, scored = None, -np.inf, [], []
    bar = tqdm(desc=f"Scoring {Path(path).name}", unit="window", disable=None)
    for seconds, windows, scores in tagger.scored_windows(path):
        bar.update(len(scores))
        places.append(seconds)
        scored.append(scores)
        if start_seconds is not None:
            found = np.flatnonzero(seconds <= start_seconds)
            if len(found):
                kept = windows[found[-1]].copy(), seconds[found[-1]]
            continue
        if numbers is None:
            height = np.sort(scores, axis=1)[:, -num_tags:].sum(axis=1)
        else:
            height = scores[:, numbers].sum(axis=1)
        if height.max() > highest:
            highest = height.max()
            kept = windows[height.argmax()].copy(), seconds[height.argmax()]
    bar.close()
    window_seconds = tagger.info.window.num_samples / tagger.info.sample_rate
    taggram = Taggram(np.concatenate(places), window_seconds, np.concatenate(scored))
    end = taggram.seconds[-1] + window_seconds
    if start_seconds is not None and not 0 <= start_seconds < end:
        raise ValueError(
            f"--start {start_seconds:g} is not within {path}, of which {end:.1f} s are"
            " scored."
        )
    waveform, start = kept
    if np.abs(waveform).max() < SILENCE:
        warnings.warn(
            f"{path} is silent from {start:.1f} s on: the pictures show what the model"
            " makes of silence.",
            stacklevel=2,
        )
    return Excerpt(Path(path).name, waveform, float(start), taggram)


# --- The pictures: each returns pictures, arrays and sounds ---------------------------

_Made = tuple[list[Picture], dict[str, np.ndarray], dict[str, np.ndarray]]


def _taggram(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    taggram = excerpt.taggram
    order = np.argsort(-taggram.scores.mean(axis=0), kind="stable")
    shown = [*order[:NUM_TAGGRAM_TAGS]]
    shown += [number for number in numbers if number not in shown]
    table = pd.DataFrame(taggram.scores.T[shown], [tagger.tags[n] for n in shown])
    picture = Picture(
        "taggram",
        "Scores over time",
        "Every column is a window of the file, every row a tag, the highest on top.",
        "Pons and Serra 2019, musicnn, https://arxiv.org/abs/1909.06654",
        plotting.plot_taggram(
            table, taggram.seconds, taggram.window_seconds, f"{excerpt.name}: taggram"
        ),
    )
    arrays = {"taggram": taggram.scores, "taggram_seconds": taggram.seconds}
    return [picture], arrays, {}


def _attribution(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    found = attributions.attribute(tagger.model, excerpt.waveform, numbers)
    music, values, sounds = found[0].spectrogram, {}, {}
    for number, one in zip(numbers, found, strict=True):
        tag = tagger.tags[number]
        rise = f"score {one.score:.2f}, of silence {one.silence_score:.2f}"
        values[f"{tag}: {rise}"] = one.values
        sounds[tag] = attributions.filtered(
            excerpt.waveform, one, tagger.info.sample_rate
        )
    picture = Picture(
        "attribution",
        "Which times and frequencies",
        "Over the music in grey: what raised the tag's score in orange, what lowered"
        " it in violet. All cells add up to the difference between the score of the"
        " music and that of silence (here they are smoothed). The sounds above are the"
        " music filtered by the orange cells.",
        "integrated gradients, Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365",
        plotting.plot_attributions(
            values, music, f"{excerpt.name}: attribution by {tagger.info.name}"
        ),
    )
    arrays = {
        "attribution": np.stack([one.values for one in found]),
        "attribution_tags": np.array([tagger.tags[number] for number in numbers]),
        "spectrogram": music.values,
        "spectrogram_seconds": music.seconds,
        "spectrogram_hz": music.frequencies_hz,
    }
    return [picture], arrays, sounds


def _attention(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    model = tagger.model
    found = attention_maps.attention(model, excerpt.waveform)
    music = spectrogram(model, excerpt.waveform)
    last = list(found.layers)[-1]
    heats = {}
    for name in found.layers:
        queries = "class" if name == last else "all"
        # The class token itself, at position 0, is no moment of music.
        whose = "of the class token" if name == last else "of all moments, mean"
        heats[f"{name}, {whose}"] = found.heads(name, queries)[:, 1:]
    source = "Won, Chun and Serra 2019, https://arxiv.org/abs/1911.04385"
    pictures = [
        Picture(
            "attention",
            "Where the model looks",
            "Attention over time, a row per head and their sum, above the music on the"
            " same axis. The scores are made from what the class token attends to in"
            " the last layer.",
            source,
            plotting.plot_attention(
                heats, found.seconds, music, f"{excerpt.name}: attention"
            ),
        ),
        Picture(
            "attention_matrices",
            "What every moment attends to",
            "Mean of all heads; a row is a moment, bright where it looks.",
            source,
            plotting.plot_attention_matrices(
                {n: a.mean(axis=0)[1:, 1:] for n, a in found.layers.items()},
                found.seconds,
                f"{excerpt.name}: attention of every moment",
            ),
        ),
    ]
    arrays = {f"attention_{name}": array for name, array in found.layers.items()}
    return pictures, arrays | {"attention_seconds": found.seconds}, {}


def _contribution(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    return _contributed(
        tagger, excerpt.waveform, numbers, "contribution", excerpt.name, None
    )


def _two_clips(
    tagger: Tagger, excerpt: Excerpt, numbers: list[int], second: Excerpt
) -> _Made:
    waveform = attention_maps.half_and_half(excerpt.waveform, second.waveform)
    junction = (excerpt.taggram.window_seconds / 2, excerpt.name, second.name)
    return _contributed(
        tagger, waveform, numbers, "contribution_of_two", "Two clips", junction
    )


def _contributed(
    tagger: Tagger,
    waveform: np.ndarray,
    numbers: list[int],
    name: str,
    title: str,
    junction: tuple[float, str, str] | None,
) -> _Made:
    model = tagger.model
    scores = attention_maps.contribution(model, waveform)
    seconds = attention_maps.step_seconds(model, len(waveform), scores.shape[1] - 1)
    whole = keras.ops.convert_to_numpy(model(waveform[None], training=False))[0]
    table = pd.DataFrame(scores[numbers, 1:], [tagger.tags[n] for n in numbers])
    picture = Picture(
        name,
        "What each moment alone would score"
        + (", of two clips beside each other" if junction else ""),
        "The tag's score if the last layer attended to this moment alone, for every"
        " moment; beside the name the score of the whole window."
        + (" The first half is of one clip, the second of another." * bool(junction)),
        "tag-wise contribution, Won, Chun and Serra 2019,"
        " https://arxiv.org/abs/1911.04385",
        plotting.plot_contribution(
            table,
            whole[numbers],
            seconds,
            spectrogram(model, waveform),
            f"{title}: tag-wise contribution",
            junction,
        ),
    )
    return [picture], {name: scores, f"{name}_seconds": seconds}, {}


def _gates(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    model = tagger.model
    layers = [x for x in model.layers if isinstance(x, SqueezeExcitation)]
    probe = keras.Model(model.input, [layer.output for layer in layers])
    outputs = probe(excerpt.waveform[None], training=False)
    gates = [keras.ops.convert_to_numpy(gate)[0].mean(axis=0) for gate in outputs]
    picture = Picture(
        "excitations",
        "How the SE blocks weigh their channels",
        "A box per block over the excitations of its channels: half of them lie in the"
        " box, the line is their median. 1 lets a channel pass, 0 shuts it.",
        "Kim, Lee and Nam 2018, https://arxiv.org/abs/1710.10451",
        plotting.plot_gates(gates, f"{excerpt.name}: excitations"),
    )
    arrays = {
        f"excitations_{layer.name}": gate
        for layer, gate in zip(layers, gates, strict=True)
    }
    return [picture], arrays, {}


# --- The page -------------------------------------------------------------------------


def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    return environment.get_template("report.html.jinja")


def _mp3(waveform: np.ndarray, sample_rate: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.mp3"
        write_audio(path, waveform, sample_rate)
        return _data(path, "audio/mpeg")


def _data(path: Path, kind: str) -> str:
    """A file as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _file_name(tag: str) -> str:
    """A tag with nothing in it that a file system minds."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in tag)
