"""The HTTP API of `tagger serve`: tags and embeddings of uploads, and the library.

    POST /api/tag, /api/embed     audio files -> scores, or embeddings
    GET  /api/models              the model
    GET  /api/find, /api/similar  songs of the library
    GET  /api/docs                a page that describes all of this, and tries it

A request names no file of the server and no URL: music comes in the request itself, and
songs of the library are named by numbers.
"""

import contextlib
import hmac
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    HTTPException,
    Query,
    Request,
    UploadFile,
)
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field

import tagger
from tagger.audio import AudioDecodeError
from tagger.inference.results import Result
from tagger.inference.streaming import stream_files
from tagger.inference.tagger import Tagger
from tagger.text import TaggerError
from tagger.web.collection import Collection
from tagger.web.decoding import decoded, temporary_folder
from tagger.web.limits import KEY_MISSING, BodyLimits

MAX_FILES = 32  # per request
MAX_SONGS = 1000  # per answer
NUM_DECODERS = 2  # uploads that are decoded at the same time, each in a process


class ModelFacts(BaseModel):
    """A model."""

    name: str
    sample_rate: int = Field(description="of the audio it hears, in Hz")
    segment_seconds: float
    tags: list[str]
    thresholds: list[float] | None = Field(description="one per tag, if it holds any")
    embedding_size: int | None


class Tags(BaseModel):
    """The scores of a file, or why it has none."""

    path: str = Field(description="name of the file, as sent")
    model: str
    seconds: float | None = None
    tags: dict[str, float] | None = Field(None, description="the highest score first")
    error: str | None = None


class Embedding(BaseModel):
    """The embedding of a file, or why it has none."""

    path: str = Field(description="name of the file, as sent")
    seconds: float | None = None
    embedding: list[float] | None = None
    error: str | None = None


class LibrarySong(BaseModel):
    """A song of the library."""

    id: int
    path: str
    artist: str
    album: str
    title: str
    seconds: float | None
    scores: dict[str, float]


class Songs(BaseModel):
    """Songs of the library."""

    number: int = Field(description="of songs that match")
    songs: list[LibrarySong]


def build(
    scorer: Tagger,
    max_minutes: float,
    max_megabytes: float,
    collection: Collection | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """Builds the API as an ASGI application, to be mounted at `limits.API_PATH`.

    Args:
        scorer: Tagger that scores uploads.
        max_minutes: Maximum length of a file in minutes.
        max_megabytes: Maximum size of a request in MB.
        collection: Library for /find and /similar, or None.
        api_key: What requests must send in the header X-API-Key, or None.
    """
    held_key = APIKeyHeader(name="X-API-Key", auto_error=False)

    def is_admitted(key: str) -> bool:
        return not api_key or hmac.compare_digest(key.encode(), api_key.encode())

    def admitted(key: Annotated[str | None, Depends(held_key)]) -> None:
        if not is_admitted(key or ""):
            raise HTTPException(401, KEY_MISSING)

    app = FastAPIOffline(
        title="tagger",
        version=tagger.__version__,
        description="Scores of music tags. They rank tags and are not probabilities.",
        redoc_url=None,
    )
    app.add_middleware(
        BodyLimits, max_bytes=int(max_megabytes * 1e6), is_admitted=is_admitted
    )
    # The description needs no key: whoever tries it out gives the key there.
    router = APIRouter(dependencies=[Depends(admitted)])
    uploads = _Uploads(scorer, max_minutes)

    @app.exception_handler(TaggerError)
    def refused(request: Request, error: TaggerError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(OSError)
    def failed(request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    def library() -> Collection:
        if collection is None:
            raise HTTPException(404, "This server has no library.")
        return collection

    @router.post("/tag")
    def tag(
        files: list[UploadFile],
        top: Annotated[int | None, Query(ge=1, description="tags per file")] = None,
    ) -> list[Tags]:
        """Scores the tags of audio files; one that cannot be decoded has an error."""
        answers = []
        for found in uploads.heard(files, lambda wav: scorer.taggrams([wav])):
            answer = scorer.described(found)
            if "tags" in answer:
                named = list(answer["tags"].items())[:top]
                answer["tags"] = {tag: round(score, 6) for tag, score in named}
            answers.append(Tags(**answer))
        return answers

    @router.post("/embed")
    def embed(files: list[UploadFile]) -> list[Embedding]:
        """Computes the embeddings of audio files; similar songs have similar ones."""
        if not scorer.engine.embedding_size:
            raise HTTPException(404, "This model gives no embeddings.")
        answers, outputs = [], ("embedding",)
        for found in uploads.heard(
            files, lambda wav: stream_files(scorer.engine, [wav], None, outputs)
        ):
            if found.error:
                answers.append(Embedding(path=found.path, error=str(found.error)))
                continue
            vector = [round(float(x), 6) for x in found.value.rows.mean(axis=0)]
            seconds = round(found.value.length_seconds, 3)
            answers.append(
                Embedding(path=found.path, seconds=seconds, embedding=vector)
            )
        return answers

    @router.get("/models")
    def models() -> list[ModelFacts]:
        """Describes the model that scores uploads."""
        info = scorer.info
        facts = ModelFacts(
            name=scorer.name,
            sample_rate=info.sample_rate,
            segment_seconds=scorer.segment_seconds,
            tags=list(scorer.tags),
            thresholds=info.thresholds and list(info.thresholds),
            embedding_size=scorer.engine.embedding_size,
        )
        return [facts]

    @router.get("/find")
    def find(
        held: Annotated[Collection, Depends(library)],
        expression: Annotated[str, Query(description="rock > .5 and not vocals")],
        top: Annotated[int, Query(ge=1, le=MAX_SONGS)] = 20,
    ) -> Songs:
        """Finds songs of the library by their tags."""
        answer = held.find(expression, top)
        return Songs(number=answer.number, songs=answer.as_dicts())

    @router.get("/similar")
    def similar(
        held: Annotated[Collection, Depends(library)],
        song: Annotated[list[int], Query(description="ids of songs", max_length=100)],
        top: Annotated[int, Query(ge=1, le=MAX_SONGS)] = 20,
        max_per_artist: Annotated[int | None, Query(ge=1)] = None,
    ) -> Songs:
        """Finds songs of the library that sound similar to others."""
        answer = held.similar(song, top, max_per_artist)
        return Songs(number=answer.number, songs=answer.as_dicts())

    app.include_router(router)
    return app


class _Uploads:
    """Runs the model on uploaded files."""

    def __init__(self, scorer: Tagger, max_minutes: float):
        self._scorer, self._max_minutes = scorer, max_minutes
        self._decoders = threading.Semaphore(NUM_DECODERS)
        self._scoring = threading.Lock()  # a batch of one request uses all cores

    def heard(self, files: list[UploadFile], run: Callable) -> Iterator[Result]:
        """Runs a function of a decoded file on each upload; yields what it gives."""
        if len(files) > MAX_FILES:
            raise HTTPException(
                413, f"Send at most {MAX_FILES} files at once, not {len(files)}."
            )
        for file in files:
            name = Path(file.filename or "upload").name
            try:
                with self._saved(file) as path, self._decoded(path) as wav:
                    with self._scoring:
                        (found,) = run(wav)
            except TaggerError as error:
                found = Result(name, error=error)
            error = found.error and _named(found.error, name)
            yield Result(name, found.value, error)

    @contextlib.contextmanager
    def _saved(self, file: UploadFile) -> Iterator[str]:
        """Writes an upload to a file; only its ending is the sender's."""
        ending = os.path.splitext(file.filename or "")[1].lower()
        is_known = ending[1:].isalnum() and ending.isascii() and len(ending) < 8
        with temporary_folder() as folder:
            path = Path(folder) / f"upload{ending if is_known else ''}"
            with path.open("wb") as saved:
                shutil.copyfileobj(file.file, saved)
            yield str(path)

    @contextlib.contextmanager
    def _decoded(self, path: str) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            with self._decoders:
                wav = stack.enter_context(
                    decoded(path, self._scorer.info.sample_rate, self._max_minutes)
                )
            yield wav


def _named(error: Exception, name: str) -> Exception:
    """Returns an error with the sender's name of the file instead of ours."""
    if isinstance(error, AudioDecodeError):
        return AudioDecodeError(name, error.reason)
    return error
