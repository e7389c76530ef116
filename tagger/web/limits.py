"""Limits of the page: which names it answers to, and how much a visitor may upload.

Both are ASGI middleware, which sees each request before Gradio does.
"""

import collections
import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

Scope = MutableMapping
UPLOAD_PATH = "/upload"
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
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return [host, "localhost", "127.0.0.1"]
    if address.is_unspecified:
        return ["*"]
    return [host, "localhost", "127.0.0.1"]


class UploadQuota:
    """Refuses uploads of a visitor, a network address, beyond a number of bytes.

    Args:
        app: ASGI application to protect.
        max_bytes: Number of bytes per visitor within QUOTA_SECONDS.
    """

    def __init__(self, app: Callable[..., Awaitable], max_bytes: int):
        self._app, self._max_bytes = app, max_bytes
        self._uploads = collections.defaultdict(list)  # visitor -> [(time, bytes)]

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """Handles a request."""
        is_upload = scope["type"] == "http" and scope["path"].endswith(UPLOAD_PATH)
        if not is_upload:
            return await self._app(scope, receive, send)
        visitor = (scope.get("client") or ("unknown",))[0]
        left = self._max_bytes - self._num_recent(visitor)
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        too_much = not declared.isdigit() or int(declared) > left
        if left <= 0 or too_much:
            minutes = QUOTA_SECONDS // 60
            sentence = (
                f"You may upload {self._max_bytes / 1e6:.0f} MB in {minutes} minutes."
                " Wait, or use python -m tagger tag."
            )
            response = PlainTextResponse(sentence, status_code=413)
            return await response(scope, receive, send)
        upload = [time.monotonic(), 0]
        self._uploads[visitor].append(upload)

        async def counted() -> dict:
            message = await receive()
            upload[1] += len(message.get("body", b""))
            if upload[1] > left:  # more than the declared length
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)

    def _num_recent(self, visitor: str) -> int:
        """Returns the number of bytes that a visitor uploaded within QUOTA_SECONDS."""
        start = time.monotonic() - QUOTA_SECONDS
        for name in list(self._uploads):
            recent = [one for one in self._uploads[name] if one[0] >= start]
            self._uploads[name] = recent
            if not recent:
                del self._uploads[name]
        return sum(num_bytes for _, num_bytes in self._uploads.get(visitor, ()))
