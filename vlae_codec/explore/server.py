"""The page's server: Starlette on 127.0.0.1, a few routes of JSON, and the files of ``static/``."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlae_codec.errors import UnsupportedImage, VlaeError, describe
from vlae_codec.registry import LOSSY_MODEL, load_model

from . import digits, pictures, plane
from .digits import CHOICES, Choice

HOST = "127.0.0.1"
#: Other pages may not frame this one or ask it for anything, and it asks nothing of other hosts.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: Steps on the way from one digit to another.
MIX_STEPS = 9


class OwnPages:
    """Adds `HEADERS`, and refuses what a browser asks for on behalf of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        site = dict(scope.get("headers", [])).get(b"sec-fetch-site", b"none")
        if scope["type"] == "http" and scope["path"].startswith("/api/") and site not in (b"none", b"same-origin"):
            await JSONResponse({"error": "asked for by another site"}, 403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


class Explorer:
    """The models of a page, loaded when they are first asked for, and what is computed with them.

    Parameters
    ----------
    choices : sequence of Choice
        The models for digits, by window.
    photographs : str
        Name or path of the model for photographs.
    device : str
    """

    def __init__(self, choices: Sequence[Choice], photographs: str, device: str) -> None:
        self.choices = choices
        self.device = device
        self.photographs = functools.cache(lambda: load_model(photographs, device))
        self.model = functools.cache(lambda index: digits.load_choice(choices[index], device))
        self.plane = functools.cache(self._plane)
        #: Compiled loops and networks use all cores already, and not every one of them may run twice at a time.
        self.lock = threading.Lock()

    def _plane(self, index: int) -> plane.Plane:
        model = self.model(index)
        return plane.stored(model) or plane.Plane.through(digits.means_of(model, digits.shelf()), digits.shelf_labels())

    # -- what is asked for -------------------------------------------------------------------------------------------

    def about(self, query: QueryParams) -> dict[str, Any]:
        """The models and the shelf."""
        models = [self.model(index) for index in range(len(self.choices))]
        return {
            "models": [
                {
                    "label": choice.label,
                    "name": choice.name,
                    "stem": model.name,
                    "window": digits.window_of(model.config),
                    "channels": model.config.z_channels,
                }
                for choice, model in zip(self.choices, models, strict=True)
            ],
            "shelf": [
                {"label": int(label), "pixels": digits.to_text(image)}
                for label, image in zip(digits.shelf_labels(), digits.shelf(), strict=True)
            ],
            "limits": {"bytes": pictures.MAX_BYTES, "pixels": pictures.MAX_PIXELS},
            "draws": digits.DRAWS,
            "steps": MIX_STEPS,
        }

    def digit(self, query: QueryParams) -> dict[str, Any]:
        """A digit seen by a model."""
        index, image = self._index(query), digits.from_text(query.get("pixels", ""))
        place = self.plane(index).place_of(digits.means_of(self.model(index), image[None])[0])
        return digits.view(image, self.model(index), _whole(query, "seed")) | {"place": place.tolist()}

    def map(self, query: QueryParams) -> dict[str, Any]:
        """Where digits lie on a model's plane."""
        found = self.plane(self._index(query))
        return {"places": found.places.round(3).tolist(), "labels": found.labels.tolist()}

    def point(self, query: QueryParams) -> dict[str, Any]:
        """The draw at a place of the plane."""
        index = self._index(query)
        place = np.array([_number(query, "x"), _number(query, "y")])
        z = self.plane(index).z_at(place)
        return {"pixels": digits.to_text(digits.draw_at(self.model(index), z[None], _whole(query, "seed"))[0])}

    def mix(self, query: QueryParams) -> dict[str, Any]:
        """The draws on the way from one digit to another."""
        one, other = (digits.from_text(query.get(name, "")) for name in ("from", "to"))
        images = digits.mix(one, other, self.model(self._index(query)), MIX_STEPS, _whole(query, "seed"))
        return {"images": [digits.to_text(image) for image in images]}

    def picture(self, query: QueryParams, data: bytes) -> dict[str, Any]:
        """The digit in an image file."""
        return {"pixels": digits.to_text(digits.digit_of(data, _name(query)))}

    def photograph(self, query: QueryParams, data: bytes) -> dict[str, Any]:
        """A photograph beside what z tells of it, and beside WebP."""
        found = pictures.look_at(data, _name(query), self.photographs(), min(max(_whole(query, "quality"), 1), 100))
        files = {"file": found.file, "shown": found.shown, "webp": found.webp, "original": found.original}
        return {"size": found.size} | {name: base64.b64encode(part).decode() for name, part in files.items()}

    def vlae(self, query: QueryParams) -> Response:
        """A digit's .vlae file."""
        data = digits.file_of(digits.from_text(query.get("pixels", "")), self.model(self._index(query)))
        return _download(data, "application/octet-stream", "digit.vlae")

    def png(self, query: QueryParams) -> Response:
        """A digit's image file."""
        return _download(digits.png_of(digits.from_text(query.get("pixels", ""))), "image/png", digits.NAME)

    def _index(self, query: QueryParams) -> int:
        index = _whole(query, "model")
        if index >= len(self.choices):
            raise VlaeError(f"model {index}, expected one of {len(self.choices)}")
        return index

    # -- routes ------------------------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        """The application."""
        asked = [self.about, self.digit, self.map, self.point, self.mix, self.vlae, self.png]
        given = [self.picture, self.photograph]
        app = Starlette(
            routes=[
                *(Route(f"/api/{each.__name__}", self._answer(each)) for each in asked),
                *(Route(f"/api/{each.__name__}", self._answer_upload(each), methods=["POST"]) for each in given),
                Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True)),
            ],
            middleware=[Middleware(OwnPages), Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
            exception_handlers={VlaeError: lambda request, error: _refusal(error)},
        )
        app.state.lock = self.lock
        return app

    def _answer(self, compute: Callable[[QueryParams], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(self._locked, compute, request.query_params)

        return endpoint

    def _answer_upload(self, compute: Callable[[QueryParams, bytes], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(self._locked, compute, request.query_params, await _body(request))

        return endpoint

    def _locked(self, compute: Callable[..., Any], *given: Any) -> Response:
        try:
            with self.lock:
                result = compute(*given)
        except Exception as error:
            # Whatever it is, the page says it in a line, as the command line would.
            return _refusal(error)
        return result if isinstance(result, Response) else JSONResponse(result)


async def _body(request: Request) -> bytes:
    """The file that a request brings; `UnsupportedImage` if it is too large."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > pictures.MAX_BYTES:
            raise UnsupportedImage(
                f"{_name(request.query_params)} is larger than the {pictures.MAX_BYTES >> 20} MiB that this page takes"
            )
    return bytes(data)


def _refusal(error: Exception) -> JSONResponse:
    return JSONResponse({"error": describe(error)}, 400 if isinstance(error, VlaeError) else 500)


def _download(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _name(query: QueryParams) -> str:
    return query.get("name", "") or "the file"


def _whole(query: QueryParams, key: str) -> int:
    text = query.get(key, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise VlaeError(f"{key} is {text[:20]!r}, expected a whole number from 0 on")
    return int(text)


def _number(query: QueryParams, key: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(query.get(key, "0"))
        if abs(value) < 1000:
            return value
    raise VlaeError(f"{key} is {query.get(key, '')[:20]!r}, expected a number")


# -- serving ---------------------------------------------------------------------------------------------------------


def create_app(choices: Sequence[Choice] = CHOICES, photographs: str = LOSSY_MODEL, device: str = "auto") -> Starlette:
    """The page's application; the models are loaded when they are first asked for."""
    return Explorer(choices, photographs, device).app()


def listen(port: int) -> socket.socket:
    """A socket of this machine alone that listens; ``OSError`` if the port is taken. Port 0 is any free one."""
    found = socket.socket()
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen()
    except OSError as error:
        found.close()
        raise OSError(error.errno, f"port {port}: {error.strerror}") from None
    return found


@contextlib.contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Answer on a free port, in a thread, for the length of a with statement; gives the address."""
    at = listen(0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([at],))
    thread.start()
    try:
        yield f"http://{HOST}:{at.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def serve(app: Starlette, at: socket.socket) -> None:
    """Answer until Ctrl-C; what is still computed then keeps nobody waiting."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([at])
    if app.state.lock.locked():
        # Python would wait for the thread that computes.
        os._exit(0)
