"""`python -m tagger serve`: a page that tags a song, plays it and shows why.

Gradio makes the page; what goes with the playing (waveform, taggram, cursor) is made by
`song.py` and moved by `cursor.js`. Every visitor's song is a state of their own.
"""

import os
import signal
import tempfile
import threading
from pathlib import Path

import gradio as gr

from tagger.audio import AudioDecodeError
from tagger.inference.tagger import Tagger
from tagger.interpretation import report
from tagger.web.song import Song, analyse, html, json_file, player_html, rows_html

NUM_BARS = 10
NUM_EXPLAINED = 3  # of the tags to compare
_FILES = Path(__file__).parent


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
            f" segments of {tagger.segment_seconds:.1f} s. Files of up to"
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
                return empty(html("error", name=name, sentence=sentence))
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
                    value=json_file(tagger, tagged), interactive=True
                ),
                pictures: "",
            }

        def compare(tagged: Song | None, tags: list[str]) -> str:
            return rows_html(tagger, tagged, tags) if tagged and tags else ""

        def why(tagged: Song, tags: list[str]) -> str:
            if not os.path.exists(tagged.path):
                gone = "it is no longer kept here. Drop it again."
                return html("error", name=tagged.name, sentence=gone)
            with tempfile.TemporaryDirectory() as folder:
                report.explain(
                    tagger,
                    tagged.path,
                    folder,
                    tags[:NUM_EXPLAINED] or None,
                    taggram=tagged.taggram,
                )
                page = (Path(folder) / "report.html").read_text(encoding="utf-8")
            return html("report", page=page)

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
