"""`tagger serve`: a page that tags, plays and explains a song, and asks the library.

Gradio builds the page. `song.py` builds the parts that follow playback (waveform,
taggram, cursor), and `cursor.js` moves the cursor. Visitors do not share songs.
"""

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
import traceback
from pathlib import Path

import gradio as gr
from starlette.routing import Mount

from tagger.inference.tagger import Tagger
from tagger.storage import LOCK_NAME, writer_lock
from tagger.web import api, library_tab, limits
from tagger.web.collection import Collection
from tagger.web.song import (
    Song,
    analyse,
    html,
    json_file,
    player_html,
    report_html,
    rows_html,
)

NUM_BARS = 10
NUM_EXPLAINED = 3  # of the tags to compare
NUM_VISITORS = 8  # whose songs are decoded at the same time
_FILES = Path(__file__).parent


def serve(
    tagger: Tagger,
    scorer: Tagger,
    host: str,
    port: int,
    max_minutes: float,
    max_megabytes: float,
    collection: Collection | None = None,
    api_key: str | None = None,
) -> None:
    """Serves the page and the HTTP API until it is interrupted.

    No uploaded files stay on the disk.

    Args:
        tagger: Tagger that the page uses.
        scorer: Tagger that the API uses; it need not show its layers.
        host: Address to listen on.
        port: Port to listen on.
        max_minutes: Maximum length of a file in minutes; longer ones are refused.
        max_megabytes: Maximum size of a file in MB; larger ones are refused.
        collection: Library to ask, or None.
        api_key: What requests to the API must send, or None.

    Raises:
        OSError: the page cannot listen on this address and port.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    # Gradio checks that the page responds; that request must not go through a proxy.
    os.environ["NO_PROXY"] = ",".join([os.environ.get("NO_PROXY", ""), host])
    _remove_leftovers()
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX) as folder,
        writer_lock(Path(folder), "`port=`"),
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        cleaner = threading.Thread(target=_delete_old_files, args=[Path(folder)])
        cleaner.daemon = True
        cleaner.start()
        page = build(tagger, max_minutes, collection)
        served = api.build(scorer, max_minutes, max_megabytes, collection, api_key)
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
                app_kwargs={
                    "middleware": limits.middleware(host, max_megabytes),
                    "routes": [Mount(limits.API_PATH, app=served)],
                },
                theme=gr.themes.Default(
                    font=["system-ui", "sans-serif"], font_mono=["monospace"]
                ),
            )
        except OSError as error:
            raise OSError(
                f"Cannot listen on {host}, port {port}: the port is in use, or the"
                " address is not one of this machine. Choose another `port=` or"
                " `host=`."
            ) from error
        print(f"The page is at {url} (press Ctrl-C to stop)", flush=True)
        print(f"The HTTP API is described at {url}api/docs", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


_PREFIX = "tagger-page-"
START_SECONDS = 60  # a server may still be locking a folder of this age
KEPT_SECONDS = 3600  # age at which uploads, and what was made of them, are deleted


def _remove_leftovers() -> None:
    """Removes the uploads of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # a server that runs
            status = folder.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and _is_own(status)
            is_old = time.time() - status.st_mtime > START_SECONDS
            if is_ours and is_old:
                with writer_lock(folder, "`port=`"):
                    shutil.rmtree(folder)


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def _delete_old_files(folder: Path) -> None:
    """Deletes what is older than an hour, for as long as the server runs."""
    while True:
        for path in sorted(folder.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                is_old = time.time() - path.stat().st_mtime > KEPT_SECONDS
                if is_old and path.is_file() and path.name != LOCK_NAME:
                    path.unlink()
        time.sleep(KEPT_SECONDS / 6)


class _Replaced(Exception):
    """The visitor has removed this song, or has dropped another."""


def _failure(error: Exception, path: str) -> str:
    """Returns the HTML that says what went wrong with a file."""
    name, sentence = Path(path).name, str(error).replace(path, Path(path).name)
    if not isinstance(error, (ValueError, OSError)):
        traceback.print_exception(error)  # into the server's log
        sentence = "The server failed on this file; its log says why."
    return html("error", name=name, sentence=sentence)


def build(
    tagger: Tagger, max_minutes: float, collection: Collection | None = None
) -> gr.Blocks:
    """Builds the page without serving it.

    Args:
        tagger: Tagger that the page uses.
        max_minutes: Maximum length of a file in minutes; longer ones are refused.
        collection: Library to ask, or None.
    """
    with gr.Blocks(
        title="tagger",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS),
    ) as page:
        if collection is None:
            _song_tab(tagger, max_minutes)
        else:
            with gr.Tab("A song"):
                _song_tab(tagger, max_minutes)
            with gr.Tab("Library"):
                library_tab.build(collection)
    return page


def _song_tab(tagger: Tagger, max_minutes: float) -> None:
    """Builds the part of the page that tags a dropped song."""
    song, newest = gr.State(), gr.State({})  # per visitor
    gr.Markdown(
        f"# What is in this song?\n`{tagger.name}` scores {len(tagger.tags)} tags in"
        f" segments of {tagger.segment_seconds:.1f} s. Files may be up to"
        f" {max_minutes:g} minutes long, and they stay on the machine that serves"
        " this page."
    )
    upload = gr.File(label="Drop a song here", type="filepath", height=120)
    player = gr.HTML(js_on_load=(_FILES / "cursor.js").read_text(), min_height=60)
    rows = gr.HTML()  # no gr.Label, which shows scores as percentages
    chosen = gr.Dropdown(
        label="Tags to compare", choices=list(tagger.tags), multiselect=True
    )
    with gr.Row():
        explain = gr.Button("Why these tags?", interactive=False)
        download = gr.DownloadButton("Download JSON", interactive=False)
    pictures = gr.HTML()

    def empty(newest: dict, text: str = "") -> dict:
        newest["path"] = None
        return {
            song: None,
            player: text,
            chosen: gr.Dropdown(value=[]),
            rows: "",
            explain: gr.Button(interactive=False),
            download: gr.DownloadButton(value=None, interactive=False),
            pictures: "",
        }

    def tag(path: str | None, newest: dict, bar=gr.Progress()) -> dict:  # noqa: B008
        if path is None:
            return empty(newest)
        newest["path"] = path

        def show(share: float, desc: str) -> None:
            if newest["path"] != path:
                raise _Replaced
            bar(share, desc=desc)

        try:
            tagged = analyse(tagger, path, max_minutes, show)
        except Exception as error:
            if newest["path"] != path:
                return gr.skip()
            return empty(newest, _failure(error, path))
        if newest["path"] != path:
            return gr.skip()
        named = tagger.named(tagged.taggram.aggregated())
        highest = list(named)[:NUM_BARS]
        return {
            song: tagged,
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
            gone = "the server has deleted this file. Drop it here again."
            return html("error", name=tagged.name, sentence=gone)
        try:
            page = report_html(tagger, tagged, tags[:NUM_EXPLAINED], max_minutes)
        except Exception as error:
            return _failure(error, tagged.path)
        return html("report", page=page)

    # A file that is slow to decode holds one of these places, and not for long.
    # Gradio's `cancels` would be wrong for a song that is removed: the server cancels
    # by function, so that a late request ends the work on the next song.
    together = {"concurrency_limit": NUM_VISITORS, "concurrency_id": "songs"}
    outputs = [song, player, chosen, rows, explain, download, pictures]
    upload.upload(
        tag,
        [upload, newest],
        outputs,
        show_progress_on=player,
        trigger_mode="multiple",
        **together,
    )
    upload.clear(empty, newest, outputs)
    chosen.input(compare, [song, chosen], rows, show_progress="hidden")
    explain.click(why, [song, chosen], pictures, **together)
