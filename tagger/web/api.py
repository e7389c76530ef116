"""What other programs ask of `tagger serve`: tags, embeddings, and the library.

    POST /api/tag, /api/embed            audio files -> scores, or embeddings
    GET  /api/models                     the model
    GET  /api/find, /similar, /path      songs of the library
    GET  /api/similar_tracks, /find_path the same, as clients of AudioMuse-AI ask it
    GET  /rest/getSonicSimilarTracks, /rest/findSonicPath
                                         the same, as OpenSubsonic's sonicSimilarity
    GET  /api/docs                       a page that describes all of this, and tries it

A request names no file of the server to read, and no URL: music comes in the request
itself, and songs of the library are found by their numbers, tags or paths in it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, UploadFile
from fastapi.security import APIKeyHeader

import tagger
from tagger.inference.results import Result
from tagger.text import TaggerError
from tagger.web.collection import Answer, Collection
from tagger.web.song import Listener, Song
from tagger.web.uploads import Uploads

MAX_FILES = 32  # per request
MAX_SONGS = 1000  # per answer
SUBSONIC_VERSION = "1.16.1"
NOT_FOUND = 70  # Subsonic's code
MISSING = 10  # Subsonic's code of a parameter that is needed

Number = Annotated[int, Query(ge=1, le=MAX_SONGS)]


def build(
    listener: Listener, collection: Collection | None, uploads: Uploads
) -> APIRouter:
    """Builds the routes.

    Args:
        listener: What hears uploads.
        collection: Library to ask, or None.
        uploads: Where files lie while they are heard.
    """
    # The key itself is checked by `page.Guard`; this describes it in /api/docs.
    key = Depends(APIKeyHeader(name="X-API-Key", auto_error=False))
    router = APIRouter(dependencies=[key])
    scorer = listener.tagger

    def library() -> Collection:
        if collection is None:
            raise HTTPException(404, "This server has no library.")
        return collection

    held = Annotated[Collection, Depends(library)]

    def heard(files: list[UploadFile]) -> Iterator[Result[Song]]:
        if len(files) > MAX_FILES:
            raise HTTPException(
                413, f"Send at most {MAX_FILES} files at once, not {len(files)}."
            )
        with listener.turn():
            for file in files:
                path = uploads.save(file.filename, file.file)
                try:
                    yield Result(path.name, listener.hear(path))
                except (TaggerError, OSError) as error:
                    yield Result(path.name, error=error)
                finally:
                    uploads.drop(path)

    @router.post("/api/tag")
    def tag(
        files: list[UploadFile],
        top: Annotated[int | None, Query(ge=1, description="tags per file")] = None,
    ) -> list[dict]:
        """Scores the tags of audio files; one that cannot be decoded has an error."""
        answers = []
        for found in heard(files):
            song = found.value
            answer = scorer.described(found.with_value(song and song.taggram))
            if song:
                best = list(answer["tags"].items())[:top]
                answer["tags"] = {tag: round(score, 6) for tag, score in best}
            answers.append(answer)
        return answers

    @router.post("/api/embed")
    def embed(files: list[UploadFile]) -> list[dict]:
        """Computes the embeddings of audio files; similar songs have similar ones."""
        answers = []
        for found in heard(files):
            if found.error:
                answers.append({"path": found.path, "error": str(found.error)})
                continue
            seconds = round(found.value.taggram.length_seconds, 3)
            vector = [round(float(x), 6) for x in found.value.embedding]
            answers.append(
                {"path": found.path, "seconds": seconds, "embedding": vector}
            )
        return answers

    @router.get("/api/models")
    def models() -> list[dict]:
        """Describes the model that scores uploads."""
        info = scorer.info
        facts = {
            "name": scorer.name,
            "sample_rate": info.sample_rate,
            "segment_seconds": scorer.segment_seconds,
            "tags": list(scorer.tags),
            "thresholds": info.thresholds and list(info.thresholds),
            "embedding_size": scorer.engine.embedding_size,
        }
        return [facts]

    @router.get("/api/find")
    def find(
        held: held,
        expression: Annotated[str, Query(description="rock > .5 and not vocals")],
        top: Number = 20,
    ) -> dict:
        """Finds songs of the library by their tags."""
        answer = held.find(expression, top)
        return {"number": answer.number, "songs": answer.as_dicts()}

    @router.get("/api/similar")
    def similar(
        held: held,
        song: Annotated[list[str], Query(description="ids or paths", max_length=100)],
        top: Number = 20,
        unlike: Annotated[list[str], Query(description="ids or paths")] = (),
        exclude: Annotated[str | None, Query(description="an expression")] = None,
        max_per_artist: Annotated[int | None, Query(ge=1)] = None,
    ) -> dict:
        """Finds songs of the library that sound similar to others."""
        answer = held.similar(song, top, max_per_artist, unlike, exclude)
        return {"number": answer.number, "songs": answer.as_dicts()}

    @router.get("/api/path")
    def path(held: held, first: str, last: str, top: Number = 20) -> dict:
        """Finds songs that lead from one song to another, `top` between them."""
        answer = held.path(first, last, top)
        return {"number": answer.number, "songs": answer.as_dicts()}

    # --- AudioMuse-AI: https://github.com/NeptuneHub/AudioMuse-AI ---------------------

    @router.get("/api/similar_tracks")
    def similar_tracks(
        held: held,
        item_id: str | None = None,
        title: str | None = None,
        artist: str | None = None,
        n: Number = 10,
    ):
        """Similar songs, by id or path, or by title and artist."""
        with _missing_is_404():
            seed = held.id_of(item_id, title, artist)
        return _tracks(held.similar([seed], n))

    @router.get("/api/find_path")
    def find_path(
        held: held, start_song_id: str, end_song_id: str, max_steps: Number = 25
    ):
        """A path between two songs, `max_steps` songs between them."""
        with _missing_is_404():
            ends = [held.id_of(one) for one in (start_song_id, end_song_id)]
        tracks = _tracks(held.path(*ends, max_steps))
        total = sum(track["distance"] for track in tracks[1:])
        return {"path": tracks, "total_distance": round(total, 4)}

    # --- OpenSubsonic: https://opensubsonic.netlify.app/docs/extensions/ --------------

    def subsonic(name: str):
        """Adds a route with and without the ending `.view`."""

        def added(function):
            for ending in ("", ".view"):
                router.add_api_route(
                    f"/rest/{name}{ending}",
                    function,
                    include_in_schema=not ending,
                )
            return function

        return added

    @subsonic("ping")
    def ping() -> dict:
        """Says that the server answers."""
        return _subsonic()

    @subsonic("getOpenSubsonicExtensions")
    def extensions() -> dict:
        """Names the extensions of OpenSubsonic that are served."""
        known = {"name": "sonicSimilarity", "versions": [1]}
        return _subsonic(openSubsonicExtensions=[known] if collection else [])

    @subsonic("getSonicSimilarTracks")
    def sonic_similar(
        held: held,
        id: str | None = None,
        title: str | None = None,
        artist: str | None = None,
        count: Number = 10,
    ) -> dict:
        """Similar songs; 1 is the same music, 0 the most different."""
        try:
            answer = held.similar([held.id_of(id, title, artist)], count)
        except TaggerError as error:
            return _refused(error, id or title)
        return _subsonic(sonicMatch=_matches(answer))

    @subsonic("findSonicPath")
    def sonic_path(
        held: held,
        startSongId: str | None = None,
        endSongId: str | None = None,
        count: Annotated[int, Query(ge=2, le=MAX_SONGS)] = 25,
    ) -> dict:
        """At most `count` songs from one to another, compared with the first."""
        try:
            ends = [held.id_of(one) for one in (startSongId, endSongId)]
            answer = held.path(*ends, count - 2, to_first=True)
        except TaggerError as error:
            return _refused(error, startSongId and endSongId)
        return _subsonic(sonicMatch=_matches(answer))

    return router


@contextlib.contextmanager
def _missing_is_404() -> Iterator[None]:
    try:
        yield
    except TaggerError as error:
        raise HTTPException(404, str(error)) from error


def _tracks(answer: Answer) -> list[dict]:
    """Returns songs as AudioMuse-AI names their fields."""
    return [
        {
            "item_id": str(song["id"]),
            "title": song["title"],
            "author": song["artist"],
            "album": song["album"],
            "path": song["path"],
            "distance": round(1 - song["scores"]["similarity"], 4),
        }
        for song in answer.as_dicts()
    ]


def _matches(answer: Answer) -> list[dict]:
    """Returns songs as OpenSubsonic's SonicMatch; a cosine below 0 counts as 0."""
    return [
        {
            "entry": {
                "id": str(song["id"]),
                "isDir": False,
                "isVideo": False,
                "type": "music",
                "mediaType": "song",
                "title": song["title"] or Path(song["path"]).stem,
                "artist": song["artist"],
                "album": song["album"],
                "path": song["path"],
                "suffix": Path(song["path"]).suffix[1:],
                "duration": round(song["seconds"] or 0),
            },
            "similarity": round(float(np.clip(similarity, 0, 1)), 4),
        }
        for song, similarity in zip(
            answer.as_dicts(), answer.columns["similarity"], strict=True
        )
    ]


def _subsonic(status: str = "ok", **content) -> dict:
    about = {
        "status": status,
        "version": SUBSONIC_VERSION,
        "type": "tagger",
        "serverVersion": tagger.__version__,
        "openSubsonic": True,
    }
    return {"subsonic-response": about | content}


def _refused(error: Exception, given: str | None) -> dict:
    code = NOT_FOUND if given else MISSING
    return _subsonic("failed", error={"code": code, "message": str(error)})
