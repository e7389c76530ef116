"""`python -m tagger serve`: a page that tags a song, plays it and shows why.

Gradio makes the page; what goes with the playing (waveform, taggram, cursor) is in
`song.html.jinja`, moved by `cursor.js`. Every visitor's song is a state of their own.
"""

import base64
import dataclasses
import io
import json
import os
import signal
import tempfile
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import av
import gradio as gr
import jinja2
import numpy as np
from matplotlib import colormaps, image

from tagger.audio import (
    AudioDecodeError,
    load_audio,
    stream_audio,
    write_audio,
)
from tagger.interpretation import report
from tagger.tagging import Tagger, Taggram

NUM_BARS = 10
NUM_COLUMNS = 600  # of the waveform and the taggram
NUM_EXPLAINED = 3  # of the tags to compare
PLAYABLE = (".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")
CODECS = ("aac", "flac", "mp3", "opus", "pcm", "vorbis")
_FILES = Path(__file__).parent
_TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FILES), autoescape=True
).get_template("song.html.jinja")


@dataclasses.dataclass(frozen=True)
class Song:
    """A tagged file.

    Attributes:
        path: Where it is kept for this visitor.
        sound: A file of the same music that browsers play.
        loudness: Root mean square by column [NUM_COLUMNS], the loudest 1.
        taggram: Scores over time.
    """

    path: str
    sound: str
    loudness: np.ndarray
    taggram: Taggram

    @property
    def name(self) -> str:
        """Of the file, as its owner has it."""
        return Path(self.path).name


def serve(
    tagger: Tagger, host: str, port: int, max_minutes: float, max_megabytes: float
) -> None:
    """Serves the page until it is interrupted; nothing of it stays on the disk.

    Args:
        tagger: The model.
        host: Address to listen at.
        port: To listen at.
        max_minutes: Longer files are refused.
        max_megabytes: Larger files are refused.

    Raises:
        OSError: the port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    # Gradio asks the page whether it is there, which no proxy can tell.
    os.environ["NO_PROXY"] = ",".join([os.environ.get("NO_PROXY", ""), host])
    with tempfile.TemporaryDirectory(prefix="tagger-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(tagger, max_minutes)
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                max_file_size=int(max_megabytes * 1e6),
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                footer_links=[],
                css=(_FILES / "page.css").read_text(),
                theme=gr.themes.Default(
                    font=["system-ui", "sans-serif"], font_mono=["monospace"]
                ),
            )
        except OSError as error:
            raise OSError(
                f"Nothing can be served at {host}, port {port}: it is taken or not"
                " this machine's. Choose another --port or --host."
            ) from error
        print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def build(tagger: Tagger, max_minutes: float) -> gr.Blocks:
    """The page, not yet served, for files of so many minutes at most."""
    info = tagger.info
    with gr.Blocks(
        title="tagger", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        song = gr.State()
        gr.Markdown(
            f"# What is in this song?\n`{info.name}` scores {len(tagger.tags)} tags in"
            f" windows of {tagger.window_seconds:.1f} s. Files of up to"
            f" {max_minutes:g} minutes stay on the machine that serves this page."
        )
        with gr.Row():
            upload = gr.File(label="Drop a song here", type="filepath", scale=1)
            bars = gr.Label(
                label="Tags", num_top_classes=NUM_BARS, show_heading=False, scale=1
            )
        player = gr.HTML(js_on_load=(_FILES / "cursor.js").read_text())
        chosen = gr.Dropdown(
            label="Tags to compare", choices=list(tagger.tags), multiselect=True
        )
        rows = gr.HTML()
        with gr.Row():
            explain = gr.Button("Why these tags?", interactive=False)
            download = gr.DownloadButton("Download JSON", interactive=False)
        pictures = gr.HTML()

        def empty(text: str = "") -> dict:
            return {
                song: None,
                bars: None,
                player: text,
                chosen: gr.Dropdown(value=[]),
                rows: "",
                explain: gr.Button(interactive=False),
                download: gr.DownloadButton(value=None, interactive=False),
                pictures: "",
            }

        def tag(path: str | None, bar=gr.Progress()) -> dict:  # noqa: B008
            if path is None:
                return empty()
            try:
                tagged = analyse(tagger, path, max_minutes, bar)
            except (AudioDecodeError, ValueError) as error:
                name = Path(path).name
                sentence = str(error).replace(path, name)
                return empty(_html("error", name=name, sentence=sentence))
            named = tagger.named(tagged.taggram.aggregated())
            highest = list(named)[:NUM_BARS]
            return {
                song: tagged,
                bars: named,
                player: player_html(tagged),
                chosen: gr.Dropdown(value=highest),
                rows: rows_html(tagger, tagged, highest),
                explain: gr.Button(interactive=True),
                download: gr.DownloadButton(
                    value=written(tagger, tagged), interactive=True
                ),
                pictures: "",
            }

        def compare(tagged: Song | None, tags: list[str]) -> str:
            return rows_html(tagger, tagged, tags) if tagged and tags else ""

        def why(tagged: Song, tags: list[str]) -> str:
            if not os.path.exists(tagged.path):
                gone = "it is no longer kept here. Drop it again."
                return _html("error", name=tagged.name, sentence=gone)
            with tempfile.TemporaryDirectory() as folder:
                report.explain(
                    tagger,
                    tagged.path,
                    folder,
                    tags[:NUM_EXPLAINED] or None,
                    taggram=tagged.taggram,
                )
                page = (Path(folder) / "report.html").read_text(encoding="utf-8")
            return _html("report", page=page)

        # One at a time: a batch of one song fills all cores. A song dropped while
        # another is worked on waits, one that is taken away is given up.
        one_by_one = {"concurrency_limit": 1, "concurrency_id": "model"}
        outputs = [song, bars, player, chosen, rows, explain, download, pictures]
        tagging = upload.upload(
            tag,
            upload,
            outputs,
            show_progress_on=bars,
            trigger_mode="multiple",
            **one_by_one,
        )
        upload.clear(empty, None, outputs, cancels=[tagging])
        chosen.input(compare, [song, chosen], rows, show_progress="hidden")
        explain.click(why, [song, chosen], pictures, **one_by_one)
    return page


def analyse(tagger: Tagger, path: str, max_minutes: float, bar=None) -> Song:
    """Tags a file.

    Args:
        tagger: The model.
        path: Audio.
        max_minutes: Longer files are refused, whatever their header says.
        bar: Called with a share of the work done and what is being done.

    Raises:
        AudioDecodeError: it is none.
        ValueError: it is too long.
    """
    rate, pieces, num_samples = tagger.info.sample_rate, [], 0
    for block in stream_audio(path, rate):
        num_samples += len(block)
        if num_samples > 60 * max_minutes * rate:
            raise ValueError(
                f"The song is longer than the {max_minutes:g} minutes that this page"
                " takes. python -m tagger tag takes any length."
            )
        # A mean per 10 ms stands for its samples: memory stays small.
        whole = len(block) // (rate // 100) * (rate // 100)
        pieces.append(np.square(block[:whole]).reshape(-1, rate // 100).mean(axis=1))
    ((_, found),) = tagger.taggrams([path], bar=None if bar is None else _Bar(bar))
    if isinstance(found, AudioDecodeError):
        raise found
    sound = path
    if not _is_playable(path):
        sound = f"{path}.flac"
        write_audio(sound, load_audio(path, 22050), 22050)
    return Song(path, sound, _loudness(np.concatenate(pieces)), found)


def _is_playable(path: str) -> bool:
    """Whether browsers play a file, by its ending and what is in it."""
    with av.open(path) as container:
        codec = container.streams.audio[0].codec_context.name
    return Path(path).suffix.lower() in PLAYABLE and codec.startswith(CODECS)


def _loudness(power: np.ndarray) -> np.ndarray:
    """Root mean square by column [NUM_COLUMNS], the loudest 1, of power over time."""
    power = power if len(power) else np.zeros(1)
    edges = np.linspace(0, len(power), NUM_COLUMNS + 1)
    sums = np.interp(edges, np.arange(len(power) + 1), np.cumsum([0.0, *power]))
    columns = np.sqrt(np.diff(sums) / np.diff(edges))
    return columns / max(columns.max(), 1e-9)


class _Bar:
    """What `streaming` moves on, shown by Gradio."""

    disable = False

    def __init__(self, show: Callable):
        self.n, self._show = 0.0, show

    def update(self, share: float) -> None:
        self.n += share
        self._show(self.n, desc="Listening")


def player_html(song: Song) -> str:
    """The song's sound and waveform, with a cursor."""
    heights = 50 * np.maximum(song.loudness, 0.01)
    top = [f"{x},{50 - h:.1f}" for x, h in enumerate(heights)]
    bottom = [f"{x},{50 + h:.1f}" for x, h in enumerate(heights)]
    return _html(
        "player",
        name=song.name,
        url=f"gradio_api/file={urllib.parse.quote(song.sound)}",
        outline=" ".join(top + bottom[::-1]),
        num_columns=NUM_COLUMNS,
        times=[_clock(share / 4 * song.taggram.length_seconds) for share in range(5)],
    )


def rows_html(tagger: Tagger, song: Song, tags: list[str]) -> str:
    """The taggram of some tags, with a cursor."""
    taggram = song.taggram
    seconds = (np.arange(NUM_COLUMNS) + 0.5) / NUM_COLUMNS * taggram.length_seconds
    windows = np.searchsorted(taggram.seconds, seconds, side="right") - 1
    scores = taggram.scores[np.maximum(windows, 0)][:, tagger.tag_numbers(tags)].T
    highest = max(scores.max(), 0.01)
    colours = colormaps["magma"](scores / highest)
    # What stands behind the last window was not scored.
    colours[:, seconds > taggram.seconds[-1] + taggram.window_seconds, 3] = 0
    means = taggram.aggregated()
    rows = [
        (tag, means[tagger.tags.index(tag)], _png(colour[None]))
        for tag, colour in zip(tags, colours, strict=True)
    ]
    return _html("rows", rows=rows, highest=highest)


def written(tagger: Tagger, song: Song) -> str:
    """Path of a JSON file with all scores, of the whole and over time."""
    taggram = song.taggram
    result = {
        "file": song.name,
        "model": tagger.info.name,
        "seconds": round(taggram.length_seconds, 3),
        "tags": tagger.named(taggram.aggregated()),
        "window_seconds": taggram.window_seconds,
        "window_starts": taggram.seconds.round(3).tolist(),
        "scores": {
            tag: taggram.scores[:, number].round(5).tolist()
            for number, tag in enumerate(tagger.tags)
        },
    }
    folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
    path = Path(folder) / f"{Path(song.path).stem}.json"
    path.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return str(path)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _png(pixels: np.ndarray) -> str:
    """Colours [height, width, 4] as a URL that holds the picture."""
    held = io.BytesIO()
    image.imsave(held, pixels, format="png")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _html(part: str, **values) -> str:
    """A block of `song.html.jinja`."""
    context = _TEMPLATE.new_context(values)
    return "".join(_TEMPLATE.blocks[part](context))
