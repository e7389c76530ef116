"""`tagger serve`: a page that tags, plays and explains a song, and asks the library.

FastAPI serves the page (`page.html.jinja`), its parts as fragments of HTML, and the
routes for other programs (`api.py`) in one process.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import ipaddress
import queue
import signal
import socket
import tempfile
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import compare_digest

import jinja2
import markupsafe
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import tagger
from tagger.audio import AudioDecodeError
from tagger.library import mapping, playlists
from tagger.text import TaggerError
from tagger.web import api
from tagger.web.collection import Collection
from tagger.web.decoding import is_playable
from tagger.web.song import Listener, Song, clock
from tagger.web.uploads import Uploads
from tagger.weights import cards

_FILES = Path(__file__).parent
EXAMPLES = sorted(path.name for path in (_FILES / "examples").glob("*.opus"))
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FILES), autoescape=True, trim_blocks=True
)
_TEMPLATES.filters["clock"] = clock


def html(part: str, **values) -> str:
    """Returns a rendered block of `page.html.jinja`."""
    template = _TEMPLATES.get_template("page.html.jinja")
    return "".join(template.blocks[part](template.new_context(values))).strip()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a visitor may send.

    Attributes:
        host: Address that the page listens on.
        max_minutes: Maximum length of a song in minutes.
        max_megabytes: Maximum size of a request in MB.
        api_key: What requests of other programs must send, or None.
        public_name: Name by which a reverse proxy publishes the page, or None.
    """

    host: str = "127.0.0.1"
    max_minutes: float = 20.0
    max_megabytes: float = 200.0
    api_key: str | None = None
    public_name: str | None = None


def build(
    listener: Listener, limits: Limits, collection: Collection | None, folder: Path
) -> FastAPI:
    """Builds the page and the API as one ASGI application.

    Args:
        listener: What hears the songs.
        limits: What visitors may send.
        collection: Library to ask, or None.
        folder: Folder for uploads, which ends with the server.
    """
    app = FastAPIOffline(
        title="tagger",
        version=tagger.__version__,
        description="Scores of music tags. They rank tags and are not probabilities.",
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
        static_url="/api/static",
        max_body_size=int(limits.max_megabytes * 1e6),
    )
    app.add_middleware(Guard, limits=limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(limits))

    @app.exception_handler(TaggerError)
    def refused(request: Request, error: TaggerError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(OSError)
    def failed(request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    uploads = Uploads(folder)
    _add_page(app, listener, limits, collection, uploads)
    if collection:
        _add_library(app, listener, collection, uploads, Uploads(folder / "library"))
    app.include_router(api.build(listener, collection, uploads))
    return app


def _add_page(
    app: FastAPI,
    listener: Listener,
    limits: Limits,
    collection: Collection | None,
    uploads: Uploads,
) -> None:
    """Adds the page, and what it asks of a song."""
    model, tags = listener.tagger.name, listener.tagger.tags

    files = {
        name: markupsafe.Markup((_FILES / f"page.{name}").read_text("utf-8"))
        for name in ("css", "js")
    }
    whole = html(
        "page",
        **files,
        model=model,
        num_tags=len(tags),
        limits=limits,
        examples=EXAMPLES,
        has_library=collection is not None,
    )

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(whole)

    @app.get("/card", include_in_schema=False)
    def card() -> PlainTextResponse:
        source = listener.tagger.engine.source or model
        return PlainTextResponse(cards.card(source), media_type="text/markdown")

    @app.post("/songs", include_in_schema=False)
    def hear(file: UploadFile) -> StreamingResponse:
        return heard(uploads.save(file.filename, file.file))

    @app.post("/examples/{name}", include_in_schema=False)
    def example(name: str) -> StreamingResponse:
        if name not in EXAMPLES:
            raise HTTPException(404, f"There is no example {name!r}.")
        with (_FILES / "examples" / name).open("rb") as file:
            return heard(uploads.save(name, file))

    def heard(path: Path) -> StreamingResponse:
        def work(tell: Callable) -> str:
            token = path.parent.parent.name
            try:
                with listener.turn():
                    song = listener.hear(path, tell)
                text = song_html(listener, token, song, collection)
            except BaseException as error:
                uploads.drop(path)
                return failure(error, path.name)
            uploads.keep(token, song)
            listener.prepare()
            return text

        return StreamingResponse(told(work), media_type="text/html")

    @app.get("/songs/{token}/sound", include_in_schema=False)
    def sound(token: str) -> FileResponse:
        return FileResponse(uploads.get(token).sound)

    @app.get("/songs/{token}/why", include_in_schema=False)
    def why(token: str, tag: str) -> HTMLResponse:
        try:
            found = listener.why(uploads.get(token), tag)
        except Exception as error:
            return HTMLResponse(failure(error, tag))
        return HTMLResponse(html("why", tag=tag, **found))

    @app.get("/songs/{token}/scores.json", include_in_schema=False)
    def as_json(token: str) -> JSONResponse:
        song = uploads.get(token)
        return saved(JSONResponse(listener.as_json(song)), song, "json")

    @app.get("/songs/{token}/scores.csv", include_in_schema=False)
    def as_csv(token: str) -> Response:
        song = uploads.get(token)
        return saved(
            Response(listener.as_csv(song), media_type="text/csv"), song, "csv"
        )

    @app.get("/songs/{token}/report.html", include_in_schema=False)
    def as_report(token: str) -> Response:
        song = uploads.get(token)
        with tempfile.TemporaryDirectory(dir=song.wav.parent) as made:
            text = listener.report(song, Path(made)).read_text("utf-8")
        return saved(HTMLResponse(text), song, "html")


def saved(response: Response, song: Song, ending: str) -> Response:
    """Names the file as which a browser saves a response."""
    name = urllib.parse.quote(f"{Path(song.name).stem}.{ending}")
    response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return response


def told(work: Callable[[Callable], str]) -> Iterator[str]:
    """Runs a function in a thread; yields what it tells in lines, then its result.

    If nobody listens any more, what it tells next raises GeneratorExit in it.
    """
    said, is_over = queue.Queue(), threading.Event()

    def tell(share: float) -> None:
        if is_over.is_set():
            raise GeneratorExit
        said.put(f"{share:.3f}\n")

    def run() -> None:
        try:
            said.put(work(tell))
        finally:
            said.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        yield "0\n"
        yield from iter(said.get, None)
    finally:
        is_over.set()


def failure(error: BaseException, name: str) -> str:
    """Returns the HTML that says what went wrong with a song."""
    if isinstance(error, AudioDecodeError):
        sentence = f"This holds no sound that can be read ({error.reason})."
    elif isinstance(error, HTTPException):
        sentence = error.detail
    elif isinstance(error, (TaggerError, OSError, GeneratorExit)):
        sentence = str(error)
    else:
        traceback.print_exception(error)  # into the server's log
        sentence = "The server failed on this file; its log says why."
    return html("error", name=name, sentence=sentence)


def song_html(
    listener: Listener, token: str, song: Song, collection: Collection | None = None
) -> str:
    """Returns the part of the page that shows a song."""
    rows, taggram = listener.rows(song), song.taggram
    length = max(taggram.length_seconds, 1e-9)
    # A score counts from halfway between its segment's middle and its neighbours'.
    middles = (taggram.seconds + taggram.segment_seconds / 2) / length
    groups = [
        (name, [row for row in rows if row.group == name]) for name in mapping.GROUPS
    ]
    return html(
        "song",
        song=song,
        token=token,
        verdict=listener.verdict(song, rows),
        has_thresholds=listener.tagger.info.thresholds is not None,
        outline=50 * np.maximum(song.loudness / max(song.loudness.max(), 1e-9), 0.01),
        times=[share / 4 * length for share in range(5)],
        borders=[f"{x:.5f}" for x in (middles[1:] + middles[:-1]) / 2],
        end=min(float(taggram.seconds[-1] + taggram.segment_seconds) / length, 1.0),
        groups=[(name, members) for name, members in groups if members],
        num_tags=len(rows),
        can_explain=importlib.util.find_spec("keras") is not None,
        is_comparable=bool(collection and collection.holds(song)),
    )


# --- The library ----------------------------------------------------------------------


def _add_library(
    app: FastAPI,
    listener: Listener,
    collection: Collection,
    uploads: Uploads,
    copies: Uploads,
) -> None:
    """Adds the songs of the library, to be found, heard and saved.

    `copies` holds songs that browsers cannot play as they are.
    """
    making = collections.defaultdict(threading.Lock)  # by number of the song

    @app.get("/library", include_in_schema=False)
    def library(query: str = "", like: str = "") -> HTMLResponse:
        return HTMLResponse(library_html(collection, uploads, query, like))

    @app.get("/library.m3u8", include_in_schema=False)
    def playlist(query: str = "", like: str = "") -> Response:
        answer = collection.asked(query, seed_of(like, uploads))
        # The visitor saves it anywhere, so it names the files in full.
        text, _ = playlists.playlist_of(answer.songs, answer.rows)
        return PlainTextResponse(
            text.encode("utf-8", "surrogateescape"), media_type="audio/x-mpegurl"
        )

    @app.get("/library/{number}/sound", include_in_schema=False)
    def sound(number: int) -> FileResponse:
        path = collection.path_of(number)
        if is_playable(path):
            return FileResponse(path)
        token = str(number)
        with listener.turn(), making[number]:
            if token not in copies:
                copy = copies.folder_of(token) / "player.flac"
                try:
                    listener.make_playable(path, copy)
                except AudioDecodeError as error:
                    copy = error  # the next one who asks does not wait for it again
                copies.keep(token, copy)
            copy = copies.get(token)
        if isinstance(copy, AudioDecodeError):
            raise copy
        return FileResponse(copy)


def seed_of(like: str, uploads: Uploads) -> str | Song:
    """Returns a song that others should be like: an id of the library, or an upload."""
    return like if not like or like.isdecimal() else uploads.get(like)


def library_html(
    collection: Collection, uploads: Uploads, query: str, like: str
) -> str:
    """Returns the part of the page that shows songs of the library.

    Args:
        collection: The library.
        uploads: Songs that visitors sent.
        query: What to find; "": all songs.
        like: See `seed_of`; "": none.
    """
    shown = {"query": query}
    try:
        shown["chips"] = chips = collection.counts()
        shown["example"] = collection.example(chips)
        seed = seed_of(like, uploads)
        answer = collection.asked(query, seed)
        if seed:
            is_upload = isinstance(seed, Song)
            shown["like"] = seed.name if is_upload else collection.name_of(seed)
        shown["saved"] = urllib.parse.urlencode({"query": query, "like": like})
        total, seconds = len(answer.songs.paths), answer.songs.seconds[answer.rows]
        sentence = f"{answer.number:,} of {total:,} songs"
        if answer.number > len(answer.rows):
            sentence += f"; the first {len(answer.rows)} are shown"
        sentence += f", {playing_time(np.nansum(seconds))}."
        if not answer.number and not seed:
            answer, sentence = collection.nearest(query)
            shown["saved"] = ""
        shown |= {
            "sentence": sentence,
            "columns": list(answer.columns),
            "songs": collection.shown(answer),
        }
    except HTTPException as error:
        shown["error"] = error.detail
    except (TaggerError, OSError) as error:
        shown["error"] = str(error)
    return html("library", **shown)


def playing_time(seconds: float) -> str:
    """Returns a length in hours and minutes."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes}"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


# --- Serving --------------------------------------------------------------------------


def allowed_hosts(limits: Limits) -> list[str]:
    """Returns the host names by which the page may be called.

    A website could otherwise let its own name point to this machine (DNS rebinding),
    and read what the page shows. A page that listens on all addresses has any name.
    """
    host = limits.host.strip("[]")
    with contextlib.suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            return ["*"]
        host = f"[{address}]" if address.version == 6 else str(address)
    names = (host, limits.public_name, "localhost", "127.0.0.1", "[::1]")
    return list(dict.fromkeys(filter(None, names)))


class Guard:
    """Refuses requests that lack the key, or that another website makes a browser send.

    It answers before the body arrives.
    """

    def __init__(self, app: Callable, limits: Limits):
        self._app, self._key = app, (limits.api_key or "").encode()
        self._public_name = limits.public_name

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Handles a request."""
        refusal = None
        if scope["type"] == "http":
            headers, path = Headers(scope=scope), scope["path"]
            origin, host = headers.get("origin", ""), headers.get("host")
            name = origin.removeprefix("http://").removeprefix("https://")
            is_own = name in ("", host)
            if self._public_name:
                # Behind the proxy, the port is another one, or left out.
                is_own |= name.split(":")[0].lower() == self._public_name
            given = headers.get("x-api-key", "").encode()
            open_paths = ("/api/docs", "/api/openapi.json", "/api/static/")
            is_open = path.startswith(open_paths)
            needs_key = path.startswith(("/api/", "/rest/")) and not is_open
            if not is_own:
                refusal = 403, f"Requests from {origin[:200]} are not accepted."
            elif needs_key and self._key and not compare_digest(given, self._key):
                refusal = 401, "Send the API key in the header X-API-Key."
        app = self._app
        if refusal:
            close = {"Connection": "close"}  # the body is not read
            app = JSONResponse({"detail": refusal[1]}, refusal[0], close)
        await app(scope, receive, send)


def serve(
    listener: Listener, limits: Limits, port: int, collection: Collection | None = None
) -> None:
    """Serves the page and the API until Ctrl-C; no upload stays on the disk.

    Raises:
        OSError: the page cannot listen on this address and port.
    """
    host = limits.host.strip("[]")
    with tempfile.TemporaryDirectory(prefix="tagger-page-") as folder:
        app = build(listener, limits, collection, Path(folder))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound = socket.create_server((host, port), family=family)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {limits.host}, port {port}: the port is in use, or"
                " the address is not one of this machine. Choose another `port=` or"
                " `host=`."
            ) from error
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{port}/"
        print(f"The page is at {url} (press Ctrl-C to stop)", flush=True)
        print(f"Other programs: {url}api/docs", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
        config = uvicorn.Config(
            app, log_level="warning", ws="none", timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run([bound])
