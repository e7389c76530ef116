"""`python -m tagger explain`: writes pictures, arrays and one page about a recording.

DIR
├── report.html            the page; pictures and sound are inside it
├── taggram.png, .svg      scores over the whole file
├── attribution.png …      which times and frequencies raised the scores
├── attribution1_TAG.wav   the music filtered to those times and frequencies
├── attention.png …        models with attention: where the decision looks
├── attention_heads.png …  models with attention: each head of each layer
├── contribution.png …     models with attention: the score of each moment on its own
├── excitations.png …      models with SE blocks: their excitations
└── arrays.npz             the arrays that the pictures show
"""

import base64
import dataclasses
import io
import tempfile
import warnings
from pathlib import Path

import jinja2
import keras
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from tagger import plotting
from tagger.audio import write_audio
from tagger.inference.tagger import Tagger, Taggram
from tagger.interpretation import attention_maps, attributions, figures
from tagger.interpretation.spectrograms import Spectrogram, spectrogram
from tagger.models.layers import SelfAttention, SqueezeExcitation
from tagger.storage import replacing

NUM_TAGGRAM_TAGS = 15
SILENCE = 1e-4  # of full scale, -80 dB
# Matplotlib's settings that a page in light or dark decides.
TEXT_COLOURS = (
    "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color",
    "axes.titlecolor",
)  # fmt: skip
# Files of an earlier call that this one may not overwrite.
LEFTOVERS = (
    "attribution[0-9]*_*.wav", "attention.*", "attention_heads.*",
    "attention_matrices.*", "contribution.*", "contribution_of_two.*", "excitations.*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Attributes:
        name: Name of its files, without ending.
        title: Heading on the page.
        text: Explanation of what it shows and how to read it.
        source: Reference to the paper.
        figure: The figure.
    """

    name: str
    title: str
    text: str
    source: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """The segment of a recording that is explained.

    Attributes:
        name: Name of the file.
        waveform: float32 [num_samples].
        start_seconds: Start of the segment in the file.
        own_seconds: Number of seconds that come from the file, see `Tagger.segment`.
        taggram: Scores of the whole file over time.
    """

    name: str
    waveform: np.ndarray
    start_seconds: float
    own_seconds: float
    taggram: Taggram


def explain(
    tagger: Tagger,
    path: str,
    output_dir: str,
    tags: list[str] | None = None,
    second_path: str | None = None,
    start_seconds: float | None = None,
    hop_seconds: float | None = None,
    num_tags: int = 3,
    taggram: Taggram | None = None,
) -> list[Path]:
    """Writes a report that explains why a model tags a recording as it does.

    Args:
        tagger: Tagger to explain.
        path: Audio file of any length, of which one segment is explained. Memory is
            bounded.
        output_dir: Folder to write to, created if necessary.
        tags: Names of the tags to explain; None: the `num_tags` highest of each file.
        second_path: Second audio file. Half of its segment is joined to half of the
            first one's, to show the contributions of two clips side by side.
        start_seconds: Start of the segment; None: where the explained tags score
            highest.
        hop_seconds: Time from one segment of the taggram to the next; None: the model's
            own hop.
        num_tags: Number of tags to explain if `tags` is None.
        taggram: Scores of the first file over time, if they are already known.

    Returns:
        Paths of the files, the page first.

    Raises:
        AudioDecodeError: a file cannot be decoded.
        OSError: the folder cannot be written to.
        ValueError: the model is not a Keras model, a tag is unknown, the start is not
            within the file, or a second file is given for a model without attention.
    """
    tagger.model  # noqa: B018, fails for exported models: they show no layers
    numbers = [] if tags is None else tagger.tag_numbers(dict.fromkeys(tags))
    if second_path is not None:
        attention_maps.attention_layers(tagger.model)
    if start_seconds is not None:
        tagger.segment(path, start_seconds)  # fails before the work starts
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is not a folder. Choose another `output=`."
        )
    paths = [path] if second_path is None else [path, second_path]
    known = {path: taggram} if taggram else {}
    taggrams = [known.get(one) or tagger.taggram(one, hop_seconds) for one in paths]
    if tags is None:
        for one in taggrams:
            highest = np.argsort(-one.scores.mean(axis=0), kind="stable")
            numbers += [int(n) for n in highest[:num_tags] if n not in numbers]
    starts = [start_seconds, None]
    first, *second = (
        _excerpt(tagger, one, taggram, numbers, start)
        for one, taggram, start in zip(paths, taggrams, starts, strict=False)
    )
    makers = [_taggram, _attribution]
    if any(isinstance(layer, SelfAttention) for layer in tagger.model.layers):
        makers += [_attention, _contribution]
        makers += [_two_clips(one) for one in second]
    if any(isinstance(layer, SqueezeExcitation) for layer in tagger.model.layers):
        makers.append(_excitations)
    pictures, sounds = [], []
    arrays = {
        "model": np.array(tagger.name),
        "tags": np.array(tagger.tags),
        "explained": np.array([tagger.tags[number] for number in numbers]),
        "sample_rate": np.array(tagger.info.sample_rate),
        "start_seconds": np.array(first.start_seconds),
        "segment_seconds": np.array(tagger.segment_seconds),
    }
    for maker in tqdm(makers, "Explaining", unit="picture", disable=None):
        made, more_arrays, more_sounds = maker(tagger, first, numbers)
        pictures += made
        arrays |= more_arrays
        sounds += more_sounds
    files = _write(folder, pictures, arrays, sounds, tagger.info.sample_rate)
    page = folder / "report.html"
    html = _page(tagger, first, numbers, pictures, sounds, folder)
    with replacing(page) as unfinished:
        unfinished.write_text(html, encoding="utf-8")
    return [page, *files]


def why(tagger: Tagger, path: str, tag: str, taggram: Taggram) -> dict:
    """Explains one tag where it scores highest, for a page.

    Args:
        tagger: Tagger to explain.
        path: Audio file.
        tag: Name of the tag.
        taggram: Scores of the file over time.

    Returns:
        {"summary": how much of the score is explained, "start_seconds",
        "segment_seconds", "picture": data URL of a picture for light and dark pages,
        "sounds": {name: data URL}}.

    Raises:
        ValueError: the model is not a Keras model, or has no such tag.
    """
    numbers = tagger.tag_numbers([tag])
    excerpt = _excerpt(tagger, path, taggram, numbers, None)
    (found,) = attributions.attribute(tagger.model, excerpt.waveform, numbers)
    rate, held = tagger.info.sample_rate, io.BytesIO()
    raised = attributions.filtered(excerpt.waveform, found, rate)
    with matplotlib.rc_context(dict.fromkeys(TEXT_COLOURS, "#7f7f7f")):
        figure = figures.plot_attributions(
            {f"the strongest cells for {tag}": found.values},
            _music(tagger, excerpt),
            "",
        )
        figure.savefig(held, dpi=150, transparent=True)
    sounds = {"original": excerpt.waveform, f"what raised {tag}": raised}
    return {
        "summary": found.summary,
        "start_seconds": excerpt.start_seconds,
        "segment_seconds": tagger.segment_seconds,
        "picture": _url(held.getvalue(), "image/png"),
        "sounds": {name: _mp3(waveform, rate) for name, waveform in sounds.items()},
    }


def _write(
    folder: Path,
    pictures: list[Picture],
    arrays: dict[str, np.ndarray],
    sounds: list[tuple[str, np.ndarray]],
    sample_rate: int,
) -> list[Path]:
    """Writes all files except the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in LEFTOVERS:
        for left in folder.glob(pattern):
            left.unlink()
    files = [folder / "arrays.npz"]
    with replacing(files[0]) as unfinished:
        np.savez_compressed(unfinished, **arrays)
    for picture in pictures:
        for ending in ("png", "svg"):
            files.append(folder / f"{picture.name}.{ending}")
            plotting.save(picture.figure, files[-1])
    for number, (tag, waveform) in enumerate(sounds, 1):
        files.append(folder / f"attribution{number}_{_file_name(tag)}.wav")
        write_audio(files[-1], waveform, sample_rate)
    return files


def _excerpt(
    tagger: Tagger,
    path: str,
    taggram: Taggram,
    numbers: list[int],
    start_seconds: float | None,
) -> Excerpt:
    if start_seconds is None:
        highest = taggram.scores[:, numbers].sum(axis=1).argmax()
        start_seconds = max(float(taggram.seconds[highest]), 0.0)
    waveform, own_seconds = tagger.segment(path, start_seconds)
    if np.abs(waveform).max() < SILENCE:
        warnings.warn(
            f"{path} is silent from {start_seconds:.1f} s on: the pictures show how"
            " the model responds to silence.",
            stacklevel=3,
        )
    return Excerpt(Path(path).name, waveform, start_seconds, own_seconds, taggram)


def _music(tagger: Tagger, excerpt: Excerpt) -> Spectrogram:
    """Returns what the model hears of the excerpt, at its time in the file."""
    return spectrogram(tagger.model, excerpt.waveform).from_second(
        excerpt.start_seconds
    )


# --- The pictures: each function returns pictures, arrays and sounds ------------------

_Made = tuple[list[Picture], dict[str, np.ndarray], list[tuple[str, np.ndarray]]]


def _taggram(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    taggram = excerpt.taggram
    order = np.argsort(-taggram.scores.mean(axis=0), kind="stable")
    shown = [*order[:NUM_TAGGRAM_TAGS]]
    shown += [number for number in numbers if number not in shown]
    picture = Picture(
        "taggram",
        "Scores over time",
        "Each column is a segment of the file and each row a tag, the highest-scoring"
        " one at the top.",
        "Pons and Serra 2019, musicnn, https://arxiv.org/abs/1909.06654",
        figures.plot_taggram(
            taggram.scores[:, shown],
            [tagger.tags[number] for number in shown],
            taggram.seconds,
            taggram.segment_seconds,
            f"{excerpt.name}: taggram",
        ),
    )
    arrays = {"taggram": taggram.scores, "taggram_seconds": taggram.seconds}
    return [picture], arrays, []


def _attribution(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    found = attributions.attribute(tagger.model, excerpt.waveform, numbers)
    music, values, sounds = _music(tagger, excerpt), {}, []
    for number, one in zip(numbers, found, strict=True):
        tag = tagger.tags[number]
        rise = f"{one.summary}; silence scores {one.silence_score:.2f}"
        if not one.is_complete:
            rise += f", {one.error:+.2f} unexplained"
        values[f"{tag}: {rise}"] = one.values
        heard = attributions.filtered(excerpt.waveform, one, tagger.info.sample_rate)
        sounds.append((tag, heard))
    picture = Picture(
        "attribution",
        "Which times and frequencies matter",
        "Above is the music alone. Below, of every tag, the strongest twentieth of the"
        " cells is coloured: orange raised the tag's score, violet lowered it; all tags"
        " share one scale. All cells add up to the difference between the score of the"
        " music and that of silence (they are smoothed in the picture). The sounds"
        " above are the music filtered to the orange cells.",
        "integrated gradients, Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365",
        figures.plot_attributions(
            values, music, f"{excerpt.name}: attribution by {tagger.name}"
        ),
    )
    arrays = {
        "attribution": np.stack([one.values for one in found]),
        "attribution_scores": np.array([one.score for one in found]),
        "attribution_silence_scores": np.array([one.silence_score for one in found]),
        "spectrogram": music.values,
        "spectrogram_seconds": music.seconds,
        "spectrogram_hz": music.frequencies_hz,
    }
    return [picture], arrays, sounds


def _attention(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    model, music = tagger.model, _music(tagger, excerpt)
    found = attention_maps.attention(model, excerpt.waveform)
    seconds = found.seconds + excerpt.start_seconds
    titles = attention_maps.layer_titles(found)
    *_, last = found.layers
    # Position 0 is the class token, not a moment of the music.
    heads = {
        title: found.heads(name, "class" if name == last else "all")[:, 1:]
        for name, title in titles.items()
    }
    means = excerpt.taggram.scores.mean(axis=0)
    tags = ", ".join(f"{tagger.tags[n]} {means[n]:.2f}" for n in numbers)
    source = "Won, Chun and Serra 2019, https://arxiv.org/abs/1911.04385"
    pictures = [
        Picture(
            "attention",
            "Where the decision looks",
            "The music, and below it how much the class token, from which the scores"
            " are computed, attends to each moment in the last layer, summed over the"
            " heads. The line in the scale is uniform attention: a map that stays near"
            " it prefers no moment.",
            source,
            figures.plot_attention(
                found.heat(last)[1:],
                len(heads[titles[last]]) * found.uniform,
                seconds,
                music,
                f"{excerpt.name}: {tags}",
            ),
        ),
        Picture(
            "attention_heads",
            "Where each head looks",
            "One row per head, all layers on one scale from 0.",
            source,
            figures.plot_attention_heads(
                heads, found.uniform, seconds, music, f"{excerpt.name}: attention"
            ),
        ),
        Picture(
            "attention_matrices",
            "What each moment attends to",
            "Mean of all heads. Each row is a moment, bright where it attends to. In"
            " the last layer only the class token's row, which is not shown here,"
            " reaches the scores.",
            source,
            figures.plot_attention_matrices(
                {
                    f"layer {number}": layer.mean(axis=0)[1:, 1:]
                    for number, layer in enumerate(found.layers.values(), 1)
                },
                seconds,
                f"{excerpt.name}: attention of each moment",
            ),
        ),
    ]
    arrays = {f"attention_{name}": array for name, array in found.layers.items()}
    return pictures, arrays | {"attention_seconds": seconds}, []


def _contribution(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    return _contributed(tagger, excerpt, numbers, "contribution")


def _two_clips(second: Excerpt):
    """Returns a function that draws the contributions of two clips side by side."""

    def make(tagger: Tagger, first: Excerpt, numbers: list[int]) -> _Made:
        both = dataclasses.replace(
            first,
            name="Two clips",
            waveform=attention_maps.half_and_half(first.waveform, second.waveform),
            start_seconds=0.0,
        )
        names = [
            f"{one.name}, from {one.start_seconds:.1f} s" for one in (first, second)
        ]
        junction = (tagger.segment_seconds / 2, *names)
        return _contributed(tagger, both, numbers, "contribution_of_two", junction)

    return make


def _contributed(
    tagger: Tagger,
    excerpt: Excerpt,
    numbers: list[int],
    name: str,
    junction: tuple[float, str, str] | None = None,
) -> _Made:
    model, waveform = tagger.model, excerpt.waveform
    scores = attention_maps.contribution(model, waveform)
    seconds = attention_maps.step_seconds(model, scores.shape[1] - 1)
    seconds = seconds + excerpt.start_seconds
    whole = keras.ops.convert_to_numpy(model(waveform[None], training=False))[0]
    table = pd.DataFrame(scores[numbers, 1:], [tagger.tags[n] for n in numbers])
    picture = Picture(
        name,
        "What each moment would score on its own"
        + (", for two clips side by side" if junction else ""),
        "For each moment, the tag's score if the last layer attended only to that"
        " moment. Each tag has its own scale, from 0 to the maximum at the row's end;"
        " the number next to the name is the score of the whole segment."
        + (
            " The first half comes from one clip, the second from another."
            * bool(junction)
        ),
        "tag-wise contribution, Won, Chun and Serra 2019,"
        " https://arxiv.org/abs/1911.04385",
        figures.plot_contribution(
            table,
            whole[numbers],
            seconds,
            _music(tagger, excerpt),
            f"{excerpt.name}: tag-wise contribution",
            junction,
        ),
    )
    return [picture], {name: scores, f"{name}_seconds": seconds}, []


def _excitations(tagger: Tagger, excerpt: Excerpt, numbers: list[int]) -> _Made:
    model = tagger.model
    layers = [x for x in model.layers if isinstance(x, SqueezeExcitation)]
    probe = keras.Model(model.input, [layer.output for layer in layers])
    outputs = probe(excerpt.waveform[None], training=False)
    values = [keras.ops.convert_to_numpy(one)[0].mean(axis=0) for one in outputs]
    picture = Picture(
        "excitations",
        "How the SE blocks weight their channels",
        "One box per block shows the excitations of its channels: half of them lie in"
        " the box, and the line is their median. An excitation of 1 passes a channel"
        " unchanged, 0 blocks it.",
        "Kim, Lee and Nam 2018, https://arxiv.org/abs/1710.10451",
        figures.plot_excitation_boxes(values, f"{excerpt.name}: excitations"),
    )
    arrays = {
        f"excitations_{layer.name}": array
        for layer, array in zip(layers, values, strict=True)
    }
    return [picture], arrays, []


# --- The page -------------------------------------------------------------------------


def _page(
    tagger: Tagger,
    excerpt: Excerpt,
    numbers: list[int],
    pictures: list[Picture],
    sounds: list[tuple[str, np.ndarray]],
    folder: Path,
) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    means = excerpt.taggram.scores.mean(axis=0)
    shown = [int(n) for n in np.argsort(-means, kind="stable")[:10]]
    shown += [number for number in numbers if number not in shown]
    waveforms = [("original", excerpt.waveform)]
    waveforms += [(f"what raised {tag}", waveform) for tag, waveform in sounds]
    return environment.get_template("report.html.jinja").render(
        excerpt=excerpt,
        model=tagger.name,
        segment_seconds=tagger.segment_seconds,
        scores=[(tagger.tags[n], float(means[n])) for n in shown],
        sounds=[
            (name, _mp3(waveform, tagger.info.sample_rate))
            for name, waveform in waveforms
        ],
        pictures=[
            (picture, _data(folder / f"{picture.name}.png", "image/png"))
            for picture in pictures
        ],
    )


def _mp3(waveform: np.ndarray, sample_rate: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.mp3"
        write_audio(path, waveform, sample_rate)
        return _data(path, "audio/mpeg")


def _data(path: Path, kind: str) -> str:
    return _url(path.read_bytes(), kind)


def _url(content: bytes, kind: str) -> str:
    """Returns a file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _file_name(tag: str) -> str:
    """Returns a tag in which special characters are replaced by underscores."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in tag)
