"""A web page for people without Python: drop an image, choose a model, see what is where, download the mask.

The server listens on this machine alone unless --host says otherwise. It takes the bytes of an image and the name of a
model that it offers itself: no path and no address from a client is ever opened, and nothing that is uploaded is kept.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.resources
import io
import ipaddress
import json
import math
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from fullyconv.drawing import legend_order
from fullyconv.errors import DatasetError, first_line
from fullyconv.hub.load import load
from fullyconv.images import Encoded
from fullyconv.images.raster import read_raster
from fullyconv.inference.budget import is_shortage
from fullyconv.inference.processor import Device
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels, as_text, packed_color
from fullyconv.weights import catalog
from fullyconv.weights.pretrained import read_config

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise ImportError("fullyconv serve needs starlette and uvicorn: pip install 'fullyconv[serve]'") from error


MAX_UPLOAD = 32 * 2**20  # bytes
MAX_PIXELS = 36_000_000  # of an image: a large photograph; its overlay travels back
KEPT = 3  # loaded models
PLACES = 8  # requests inside at a time, from the first byte to the last; the others are told to come again
CONNECTIONS = 512  # open at a time
SECONDS = 120.0  # that an upload, the waiting for one's turn, and the sending of an answer may take, each
RETRY = 10  # seconds after which to come again
GRACE = 3.0  # seconds that what has begun may still take when the server is told to end

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


@dataclass(frozen=True)
class Offer:
    """A model that the page offers.

    Args:
        name: what the page sends back to choose it.
        source: what `fullyconv.load` takes.
        about: data and score, for people.
        license: of the weights.
        classes: name and color of each, as `listed` gives them; empty where they are not known before it is loaded.
        sample: an image for it, of which everybody may make use.
    """

    name: str
    source: str
    about: str
    license: str
    classes: list[dict[str, str | None]] = field(default_factory=list)
    sample: Path | None = None


def offers(sources: Sequence[str] = ()) -> list[Offer]:
    """List what the page offers.

    Args:
        sources: models by name, folder or hub id; without any, the segmenters that come with the package.

    Returns:
        The models, in the order given; the first is the page's choice.
    """
    if not sources:
        return [_shipped(entry) for entry in catalog.shipped() if entry.kind == "segmenter"]
    found: dict[str, Offer] = {}
    for source in sources:
        entry = catalog.find(source)
        if entry is not None and entry.source == "shipped":
            offer = _shipped(entry)
        else:
            name = source.rstrip("/").rpartition("/")[2]
            if not name or name in found:  # a/model beside b/model
                name = source
            offer = Offer(name, source, source, "as its source states", _classes(Path(source)))
        found[offer.name] = offer
    return list(found.values())


def _shipped(entry: catalog.Entry) -> Offer:
    score = "" if entry.mean_iou is None else f", mIoU {entry.mean_iou:.1f} %"
    name, sample = entry.aliases[0] if entry.aliases else entry.name, entry.folder / catalog.SAMPLE
    about, classes = f"{entry.data}{score}", _classes(entry.folder)
    return Offer(name, entry.name, about, entry.license, classes, sample if sample.is_file() else None)


def _classes(folder: Path) -> list[dict[str, str | None]]:
    """Read the classes of a model folder; nothing where it is none, or one of several heads."""
    try:
        return listed(Labels.from_dict(read_config(folder).labels))
    except (OSError, ValueError):
        return []


def listed(labels: Labels) -> list[dict[str, str | None]]:
    """Give name and color "#rrggbb" of the classes in the order of every legend; None is the color of one not drawn.

    Example:
        >>> listed(Labels.of(["road", "crack"]))
        [{'name': 'crack', 'color': '#1e88e5'}, {'name': 'road', 'color': None}]
    """
    entries = [(labels.names[k], labels.palette[k]) for k in legend_order(labels)]
    return [{"name": name, "color": as_text(packed_color(color)) if any(color) else None} for name, color in entries]


class Desk:
    """Segment images with the few models that were asked for last, one after another.

    Args:
        offered: the models that may be asked for.
        allow_unverified: as `fullyconv.load` takes it.
        device: as `fullyconv.load` takes it.
    """

    def __init__(self, offered: Sequence[Offer], allow_unverified: bool = False, device: Device = "auto") -> None:
        self.offered = {offer.name: offer for offer in offered}
        self._load = lru_cache(KEPT)(lambda source: load(source, allow_unverified=allow_unverified, device=device))

    def segment(self, name: str, image: bytes) -> Segmentation:
        """Segment the bytes of an image.

        Raises:
            KeyError: if the model is not offered.
            DatasetError: if the bytes are no image, or one that is too large.
        """
        encoded = Encoded("the image", image)
        module: Any = self._load(self.offered[name].source)
        wanted = module.preprocessing
        try:
            raster = read_raster(encoded, wanted.in_channels, max_pixels=MAX_PIXELS, value_range=wanted.value_range)
            result: Segmentation = module.predict(raster)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            raise DatasetError(f"{encoded} needs more memory than is free on the server; make it smaller") from error
        return result


def answer(result: Segmentation) -> dict[str, Any]:
    """Write a result as the page reads it.

    Args:
        result: of one image.

    Returns:
        `width` and `height` in pixels; `classes`, those that occur, as `listed` and with `share` in 0..1; `overlay`, a
        JPEG, and `mask`, a PNG whose values are class indices, as base64.
    """
    palette, shares = result.labels.palette, result.shares()
    found = [one | {"share": shares[str(one["name"])]} for one in listed(result.labels) if shares[str(one["name"])] > 0]
    overlay, mask = io.BytesIO(), io.BytesIO()
    result.overlay(legend=False).save(overlay, "JPEG", quality=90)
    image = Image.fromarray(result.mask)
    if image.mode == "L":
        image.putpalette([value for color in palette for value in color])
    image.save(mask, "PNG")
    height, width = result.mask.shape
    return {
        "width": width,
        "height": height,
        "classes": found,
        "overlay": base64.b64encode(overlay.getvalue()).decode(),
        "mask": base64.b64encode(mask.getvalue()).decode(),
    }


def refuse(status: int, why: str) -> Response:
    """Answer with what is wrong, as the page reads it; of a status 503 with the seconds after which to come again."""
    return JSONResponse({"error": why}, status, HEADERS | ({"Retry-After": str(RETRY)} if status == 503 else {}))


class Turns:
    """Answer ``POST /segment``, one image after another in a thread of its own.

    Few requests are inside at a time. An image is decoded when it is its turn, so that there is one in memory, and the
    place of a client that has left or waited too long is free at once.

    Args:
        desk: where images are segmented.

    Attributes:
        busy: whether one is being segmented.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._thread = ThreadPoolExecutor(1)
        self._inside = 0
        self._until = math.inf
        self.busy = False

    def end(self) -> None:
        """Begin with nothing more, and give up what has begun after `GRACE` seconds."""
        self._until = time.monotonic() + GRACE
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request and send the answer."""
        taken = self._inside < PLACES
        self._inside += taken
        task = asyncio.ensure_future(self._answer(Request(scope, receive), taken))
        try:
            while not task.done() and time.monotonic() < self._until:
                await asyncio.wait({task}, timeout=0.2)
            response = task.result() if task.done() else refuse(503, "the server is being stopped")
            if response is not None:
                with suppress(TimeoutError):  # whoever does not read what he asked for
                    await asyncio.wait_for(response(scope, receive, send), SECONDS)
        finally:
            task.cancel()
            self._inside -= taken

    async def _answer(self, request: Request, taken: bool) -> Response | None:
        """Give the answer; None where the client has left."""
        origin, name = request.headers.get("origin"), request.query_params.get("model", "")
        refused = None
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            refused = refuse(403, "another site's page may not use this server")
        elif name not in self.desk.offered:
            refused = refuse(404, f"no such model here; there are {', '.join(self.desk.offered)}")
        try:
            async with asyncio.timeout(SECONDS):
                body = await _body(request, taken and refused is None)
        except ClientDisconnect:
            return None
        except TimeoutError:
            return refuse(408, f"the image did not arrive within {SECONDS:.0f} seconds; make it smaller")
        if refused is not None:
            return refused
        if body is None:
            return refuse(413, f"the file is larger than {MAX_UPLOAD // 2**20} MB; make the image smaller")
        if not taken or self._until < math.inf:
            return refuse(503, "the server is busy; try again in some seconds")
        if not body:
            return refuse(400, "no image was sent")
        try:
            found = await self._segmented(request, name, body)
        except (DatasetError, ValueError) as error:
            return refuse(422, str(error))
        except TimeoutError:
            return refuse(503, "the server is busy; try again in some seconds")
        return None if found is None else Response(found, media_type="application/json", headers=HEADERS)

    def _work(self, name: str, body: bytes) -> bytes:
        self.busy = True
        try:
            return json.dumps(answer(self.desk.segment(name, body))).encode()
        finally:
            self.busy = False

    async def _segmented(self, request: Request, name: str, body: bytes) -> bytes | None:
        """Wait for one's turn, and give the answer as JSON; None where the client has left.

        Raises:
            TimeoutError: if it took too long, or the server ends.
        """
        future = self._thread.submit(self._work, name, body)
        work, left = asyncio.wrap_future(future), asyncio.ensure_future(_left(request))
        either: set[asyncio.Future[Any]] = {work, left}
        try:
            await asyncio.wait(either, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not left.done():
                if future.cancel():
                    raise TimeoutError
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)  # it has begun
            if work.cancelled():
                raise TimeoutError
            return work.result() if work.done() else None
        finally:
            work.cancel()
            left.cancel()


async def _body(request: Request, kept: bool) -> bytes | None:
    """Read what a client sends to its end, so that it reads the answer; None of more than `MAX_UPLOAD` bytes.

    Args:
        request: of the client.
        kept: whether it is kept; else it is dropped as it comes.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > 4 * MAX_UPLOAD:  # perhaps it has no end
            break
        if kept and size <= MAX_UPLOAD:
            chunks.append(chunk)
        else:
            chunks.clear()
    return None if size > MAX_UPLOAD else b"".join(chunks)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def app(
    offered: Sequence[Offer], *, hosts: Sequence[str] = (), allow_unverified: bool = False, device: Device = "auto"
) -> Starlette:
    """Make the web application.

    Args:
        offered: the models of the page.
        hosts: names by which the server may be called; other requests are refused, so that no page of another site can
            reach a server on this machine by a name of its own. None given: any.
        allow_unverified: as `fullyconv.load` takes it.
        device: as `fullyconv.load` takes it.

    Returns:
        The application; its ``state.turns`` is what segments.
    """
    turns = Turns(Desk(offered, allow_unverified, device))

    async def page(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        text = (importlib.resources.files("fullyconv") / "web" / name).read_text(encoding="utf-8")
        return Response(text, media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    async def models(_: Request) -> Response:
        rows = [
            {"name": o.name, "about": o.about, "license": o.license, "classes": o.classes, "sample": bool(o.sample)}
            for o in turns.desk.offered.values()
        ]
        return JSONResponse(rows, headers=HEADERS)

    async def sample(request: Request) -> Response:
        offer = turns.desk.offered.get(request.query_params.get("model", ""))
        if offer is None or offer.sample is None:
            return refuse(404, "no such model here, or none with a sample")
        return Response(offer.sample.read_bytes(), media_type="image/png", headers=HEADERS)

    routes = [Route(path, page) for path in FILES]
    routes += [Route("/models", models), Route("/sample", sample), Route("/segment", turns, methods=["POST"])]
    guard = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)] if hosts else []
    application = Starlette(routes=routes, middleware=guard)
    application.state.turns = turns
    return application


def resolved(host: str) -> str:
    """Give the address that a name or a short form of one means, so that what is decided is what is listened on.

    Args:
        host: as people write it.

    Raises:
        ValueError: if it means none.

    Example:
        >>> resolved("127.1"), resolved("0.0.0.0")
        ('127.0.0.1', '0.0.0.0')
    """
    try:
        found = socket.getaddrinfo(host or "?", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"--host {host!r}: no address ({first_line(error)}); 127.0.0.1 is this machine alone, 0.0.0.0 lets "
            "everybody in who can reach it"
        ) from error
    # of a name with two addresses the one that every browser tries
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def serve(
    sources: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_unverified: bool = False,
    device: Device = "auto",
) -> None:
    """Serve the page until it is interrupted.

    Args:
        sources: models to offer; without any, the segmenters that come with the package.
        host: address to listen on; another than this machine's own lets everybody in who can reach it.
        port: to listen on, 0 takes a free one.
        allow_unverified: accept weights without a known digest.
        device: as `fullyconv.load` takes it.

    Raises:
        ValueError: if a model cannot be loaded, or host or port are none.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port}: a number in 0..65535")
    address = resolved(host)
    offered = offers(sources)
    for offer in offered if sources else ():
        # a wrong name is said now, not to the first visitor
        load(offer.source, allow_unverified=allow_unverified, device=device)
    hosts = ["127.0.0.1", "localhost", "[::1]", host, address] if ipaddress.ip_address(address).is_loopback else []
    application = app(offered, hosts=hosts, allow_unverified=allow_unverified, device=device)
    turns: Turns = application.state.turns

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            turns.end()
            await super().shutdown(sockets)

    if not hosts:
        every = " (every address of this machine)" if ipaddress.ip_address(address).is_unspecified else ""
        print(f"listening on {address}{every}: whoever can reach this machine can use the page", flush=True)
    settings = uvicorn.Config(
        application,
        host=address,
        port=port,
        log_level="info",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(2 * GRACE),  # for what GRACE does not end: a page that nobody reads
    )
    with suppress(KeyboardInterrupt):
        Server(settings).run()
    if turns.busy:  # the thread cannot be stopped, and Python would wait for it; SIGTERM ends the process by itself
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
