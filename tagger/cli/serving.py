"""The command serve: a web page, and what other programs ask."""

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated

from tagger import web
from tagger.cli.kinds import Model, Number
from tagger.cli.songs import load_tagger
from tagger.inference.tagger import Tagger
from tagger.library import database
from tagger.models.metadata import DEFAULT_MODEL
from tagger.options import Option
from tagger.text import TaggerError


def serve(
    *,
    model: Model = DEFAULT_MODEL,
    library: Annotated[str | None, Option(metavar="FILE")] = None,
    host: Annotated[str, Option(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, Option(ge=1, le=65535)] = 7860,
    max_minutes: Number = 20.0,
    max_megabytes: Number = 200.0,
    api_key: Annotated[str | None, Option(metavar="KEY")] = None,
    public_name: Annotated[str | None, Option(metavar="NAME")] = None,
) -> None:
    """Opens a web page that tags, plays and explains songs, until Ctrl-C.

    Args:
        library: Also search the library that tagger scan fills, and play its songs;
            None: the library in the user's data folder, if there is one.
        host: Address to listen on; 127.0.0.1 is only for this machine.
        port: Port to listen on.
        max_minutes: Maximum length of a song in minutes.
        max_megabytes: Maximum size of a request in MB.
        api_key: What requests of other programs, to /api and /rest, must send in the
            header X-API-Key; None: $TAGGER_API_KEY, or nothing.
        public_name: Name by which a reverse proxy publishes the page, such as
            music.example.org.
    """
    if api_key == "":
        raise TaggerError("--api-key is empty. Give a key, or omit it.")
    if public_name is not None and not re.fullmatch(r"[\w.-]+", public_name):
        raise TaggerError(
            f"--public-name {public_name!r} is no host name. Give it without https://"
            " and port, such as music.example.org."
        )
    public_name = public_name and public_name.lower()
    api_key = api_key or os.environ.get("TAGGER_API_KEY") or None
    limits = web.page.Limits(host, max_minutes, max_megabytes, api_key, public_name)
    with contextlib.suppress(KeyboardInterrupt):
        listener = web.song.Listener(
            Tagger(model), lambda: load_tagger(model), max_minutes
        )
        web.page.serve(listener, limits, port, _collection(library))


def _collection(library: str | None) -> web.collection.Collection | None:
    """Opens the library, or the usual one if it can be read."""
    path = Path(library) if library else database.default_path()
    if not library and not path.exists():
        return None
    try:
        return web.collection.Collection(path)
    except (TaggerError, OSError) as error:
        if library:
            raise
        print(f"The page has no library: {error}", file=sys.stderr)
        return None
