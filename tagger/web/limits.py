"""Limits of the page: which names it answers to, and how much a visitor may upload.

They are ASGI middleware, which sees each request before Gradio and the API do.
"""

import asyncio
import collections
import ipaddress
import time
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, PlainTextResponse

Scope = MutableMapping
UPLOAD_PATH, RECORDING_PATH = "/upload", "/process_recording"
MAX_MESSAGE_BYTES = 1 << 20  # per request, uploads excepted
API_PATH = "/api"  # its requests have limits of their own
BODY_SECONDS = 120  # longest time that sending a request to the API may take
QUOTA_FILES = 10  # uploads of the maximum size that a visitor may make …
QUOTA_SECONDS = 3600  # … within this time, after which uploads are deleted


def middleware(host: str, max_megabytes: float) -> list[Middleware]:
    """Returns the middleware of the page.

    Args:
        host: Address that the page listens on.
        max_megabytes: Maximum size of one file in MB.
    """
    quota = int(QUOTA_FILES * max_megabytes * 1e6)
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host)),
        Middleware(UploadQuota, max_bytes=quota),
    ]


def allowed_hosts(host: str) -> list[str]:
    """Returns the host names by which the page may be called.

    A website could otherwise let its own name point to this machine (DNS rebinding),
    and read what the page shows. A page that listens on all addresses has any name.
    """
    loopback = ["localhost", "127.0.0.1", "[::1]"]
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:  # a name
        return [host, *loopback]
    if address.is_unspecified:
        return ["*"]
    own = f"[{address}]" if address.version == 6 else str(address)
    return list(dict.fromkeys([own, *loopback]))


class UploadQuota:
    """Refuses uploads of a visitor, a network address, beyond a number of bytes.

    Args:
        app: ASGI application to protect.
        max_bytes: Number of bytes per visitor within QUOTA_SECONDS.
    """

    def __init__(self, app: Callable[..., Awaitable], max_bytes: int):
        self._app, self._max_bytes = app, max_bytes
        self._uploads = collections.defaultdict(list)  # visitor -> [[time, bytes]]

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """Handles a request."""
        if scope["type"] != "http" or scope["path"].startswith(f"{API_PATH}/"):
            return await self._app(scope, receive, send)
        if scope["path"].endswith(RECORDING_PATH):  # the page records nothing
            response = PlainTextResponse("There is no recording.", status_code=404)
            return await response(scope, receive, send)
        is_upload = scope["path"].endswith(UPLOAD_PATH)
        visitor = (scope.get("client") or ("unknown",))[0]
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # [time, bytes]; the declared bytes count at once, those beyond as they come.
        upload = [time.monotonic(), int(declared) if declared.isdigit() else 0]
        if is_upload:
            self._uploads[visitor].append(upload)
        num_received = 0

        def is_too_much() -> bool:
            if is_upload:
                return self._num_recent(visitor) > self._max_bytes
            return upload[1] > MAX_MESSAGE_BYTES

        async def counted() -> dict:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body", b""))
            upload[1] = max(upload[1], num_received)
            return {"type": "http.disconnect"} if is_too_much() else message

        if is_too_much():
            if is_upload:
                self._uploads[visitor].remove(upload)
            minutes = QUOTA_SECONDS // 60
            sentence = (
                f"You may upload {self._max_bytes / 1e6:g} MB in {minutes} minutes."
                " Wait, or use python -m tagger tag."
            )
            response = PlainTextResponse(sentence, status_code=413)
            return await response(scope, receive, send)
        await self._app(scope, counted, send)

    def _num_recent(self, visitor: str) -> int:
        """Returns the number of bytes that a visitor uploaded within QUOTA_SECONDS."""
        start = time.monotonic() - QUOTA_SECONDS
        for name in list(self._uploads):
            self._uploads[name] = [one for one in self._uploads[name] if one[0] > start]
            if not self._uploads[name]:
                del self._uploads[name]
        return sum(num_bytes for _, num_bytes in self._uploads.get(visitor, ()))


KEY_MISSING = "Send the API key in the header X-API-Key."
_CLOSE = {"Connection": "close"}  # header: the rest of the request is not read


class BodyLimits:
    """Refuses requests that are too large, take too long, or come from other websites.

    Args:
        app: ASGI application to protect.
        max_bytes: Number of bytes per request.
        is_admitted: Function of the value of the header X-API-Key.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable],
        max_bytes: int,
        is_admitted: Callable[[str], bool],
    ):
        self._app, self._max_bytes = app, max_bytes
        self._is_admitted = is_admitted

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host")
        if origin and urllib.parse.urlsplit(origin).netloc != host:
            # Another website made the visitor's browser send it.
            sentence = f"Requests from {origin[:200]} are not accepted."
            response = JSONResponse({"detail": sentence}, 403, _CLOSE)
            return await response(scope, receive, send)
        if scope["method"] == "POST" and not self._is_admitted(
            headers.get("x-api-key", "")
        ):  # before the body arrives
            response = JSONResponse({"detail": KEY_MISSING}, 401, _CLOSE)
            return await response(scope, receive, send)
        end, num_received = time.monotonic() + BODY_SECONDS, 0
        has_all = False

        async def limited() -> dict:
            nonlocal num_received, has_all
            if has_all:  # what is awaited now is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except TimeoutError as error:
                sentence = f"The request did not arrive within {BODY_SECONDS} s."
                raise HTTPException(408, sentence, _CLOSE) from error
            num_received += len(message.get("body", b""))
            has_all = not message.get("more_body", False)
            if num_received > self._max_bytes:
                sentence = (
                    f"A request may have {self._max_bytes / 1e6:g} MB. Send fewer"
                    " files, or use tagger tag."
                )
                raise HTTPException(413, sentence, _CLOSE)
            return message

        await self._app(scope, limited, send)
