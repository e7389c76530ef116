"""The page's part for the library: search, player, similar songs, playlists."""

import os
import shutil
import tempfile
from pathlib import Path

import gradio as gr

from tagger.library import playlists, queries
from tagger.text import printable
from tagger.web.collection import Answer, Collection
from tagger.web.song import file_url, html

NUM_SONGS = 100  # rows of the table
EXAMPLES = 3  # tags in the examples of the search field


def build(collection: Collection) -> None:
    """Adds the search to a page that is being built.

    Args:
        collection: Library to ask.
    """
    tags = [tag.replace(" ", "_") for tag in collection.songs().model.tags]
    tags = (tags * EXAMPLES)[:EXAMPLES]
    example = f"{tags[1]} and not {tags[2]}"
    gr.Markdown("# Search the library")
    answer, chosen = gr.State(), gr.State()
    expression = gr.Textbox(
        label="Songs with these tags",
        placeholder=f"{tags[0]} > .5, or: {example}",
        submit_btn="Search",
    )
    said = gr.HTML()
    table = gr.Dataframe(
        interactive=False, wrap=True, show_label=False, max_height=420, visible=False
    )
    player = gr.HTML()
    with gr.Row():
        alike = gr.Button("Similar songs", interactive=False)
        playlist = gr.DownloadButton("Playlist of these songs", interactive=False)

    def shown(found: Answer, sentence: str) -> dict:
        return {
            answer: found,
            chosen: None,
            said: sentence,
            table: gr.Dataframe(
                value=_table(found),
                visible=bool(found.rows),
                column_widths=_widths(len(found.columns)),
            ),
            player: "",
            alike: gr.Button(interactive=False),
            playlist: gr.DownloadButton(
                value=_playlist(found), interactive=bool(found.rows)
            ),
        }

    def failed(error: Exception, name: str) -> dict:
        return {said: html("error", name=name, sentence=str(error))}

    def find(text: str) -> dict:
        try:
            found = collection.find(text, NUM_SONGS)
        except (ValueError, OSError) as error:
            return failed(error, "Search")
        songs = found.songs
        rate = None if songs.model.thresholds else queries.DEFAULT_RATE
        sentence = html(
            "found",
            number=found.number,
            total=len(songs.paths),
            shown=len(found.rows),
            rate=rate,
        )
        return shown(found, sentence)

    def hear(found: Answer, event: gr.SelectData) -> dict:
        row = found.rows[event.index[0]]
        path = found.songs.paths[row]
        recording = int(found.songs.recordings[row])
        try:
            copy = _copied(path)
        except OSError as error:
            return failed(error, Path(path).name)
        name = _name(found, row)
        return {
            chosen: recording,
            player: html("listen", name=name, url=file_url(copy)),
            alike: gr.Button(interactive=True),
        }

    def similar(recording: int) -> dict:
        try:
            found = collection.similar([recording], NUM_SONGS)
        except (ValueError, OSError) as error:
            return failed(error, "Similar songs")
        return shown(found, "")

    outputs = [answer, chosen, said, table, player, alike, playlist]
    expression.submit(find, expression, outputs)
    table.select(hear, answer, [chosen, said, player, alike])
    alike.click(similar, chosen, outputs)


def _name(found: Answer, row: int) -> str:
    songs = found.songs
    named = " – ".join(filter(None, (songs.artists[row], songs.titles[row])))
    return printable(named or Path(songs.paths[row]).stem)


def _table(found: Answer) -> dict:
    """Returns headers and cells: the name of each song, and its scores as scores."""
    cells = [
        [
            *(f"{values[place]:.2f}" for values in found.columns.values()),
            _name(found, row),
        ]
        for place, row in enumerate(found.rows)
    ]
    return {"headers": [*found.columns, "song"], "data": cells}


def _widths(num_scores: int) -> list[str]:
    """Returns the widths of the columns, so that the table fits on a phone."""
    score = min(16, 60 // max(num_scores, 1))
    return [f"{score}%"] * num_scores + [f"{100 - score * num_scores}%"]


def _playlist(found: Answer) -> str | None:
    if not found.rows:
        return None
    path = Path(_folder()) / "tagger.m3u8"
    # The visitor saves it anywhere, so it names the files in full.
    playlists.write_playlist(path, found.songs, found.rows, is_relative=False)
    return str(path)


def _copied(path: str) -> str:
    """Copies a song to the files that the page may serve; they are deleted in time."""
    ending = os.path.splitext(path)[1]
    return shutil.copyfile(path, Path(_folder()) / f"song{ending}")


def _folder() -> str:
    return tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
