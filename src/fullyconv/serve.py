"""A web page for people without Python: drop an image, choose a model, see what is where, download the mask.

The server listens on this machine alone unless it is told otherwise. It takes the bytes of an image and the name of a
model that it offers itself: no path and no address from a client is ever opened, and nothing that is uploaded is kept.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fullyconv.drawing import legend_order
from fullyconv.errors import DatasetError
from fullyconv.hub.load import load
from fullyconv.images import Encoded, image_size
from fullyconv.images.opening import bound
from fullyconv.labels import Labels, as_text, packed_color
from fullyconv.weights import catalog
from fullyconv.weights.pretrained import read_config

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from fullyconv.inference.processor import Device
from fullyconv.inference.segmentation import Segmentation

MAX_UPLOAD = 32 * 2**20  # bytes
MAX_PIXELS = 36_000_000  # of an image: a large photograph; its overlay travels back
KEPT = 3  # loaded models

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
    found = []
    for source in sources:
        entry = catalog.find(source)
        if entry is not None and entry.source == "shipped":
            found.append(_shipped(entry))
        else:
            name = source.rstrip("/").rpartition("/")[2] or source
            found.append(Offer(name, source, source, "as its source states", _classes(Path(source))))
    return found


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
    """Segment images one at a time with the few models that were asked for last.

    Args:
        offered: the models that may be asked for.
        allow_unverified: as `fullyconv.load` takes it.
        device: as `fullyconv.load` takes it.
    """

    def __init__(self, offered: Sequence[Offer], allow_unverified: bool = False, device: Device = "auto") -> None:
        self.offered = {offer.name: offer for offer in offered}
        self.allow_unverified = allow_unverified
        self.device = device
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()  # images of several people at once would only share out memory and cores

    def segment(self, name: str, image: bytes) -> Segmentation:
        """Segment the bytes of an image.

        Raises:
            KeyError: if the model is not offered.
            DatasetError: if the bytes are no image, or one that is too large.
        """
        offer, encoded = self.offered[name], Encoded("the image", image)
        bound(image_size(encoded), MAX_PIXELS, str(encoded))
        with self._lock:
            module = self._loaded.pop(name, None)
            if module is None:
                module = load(offer.source, allow_unverified=self.allow_unverified, device=self.device)
            self._loaded[name] = module
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            result: Segmentation = module.predict(encoded)
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
    if len(palette) <= 256:
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

    Raises:
        ImportError: without starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse
        from starlette.responses import Response as Plain
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError("fullyconv serve needs starlette and uvicorn: pip install 'fullyconv[serve]'") from error
    desk = Desk(offered, allow_unverified, device)

    def refuse(status: int, why: str) -> Response:
        return JSONResponse({"error": why}, status, HEADERS)

    async def page(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        text = (importlib.resources.files("fullyconv") / "web" / name).read_text(encoding="utf-8")
        return Plain(text, media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    async def models(_: Request) -> Response:
        rows = [
            {"name": o.name, "about": o.about, "license": o.license, "classes": o.classes, "sample": bool(o.sample)}
            for o in offered
        ]
        return JSONResponse(rows, headers=HEADERS)

    async def sample(request: Request) -> Response:
        name = request.query_params.get("model", "")
        found = next((offer.sample for offer in offered if offer.name == name), None)
        if found is None:
            return refuse(404, "no such model here, or none with a sample")
        return Plain(found.read_bytes(), media_type="image/png", headers=HEADERS)

    async def segment(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return refuse(403, "another site's page may not use this server")
        name = request.query_params.get("model", "")
        if name not in desk.offered:
            return refuse(404, f"no such model here; there are {', '.join(desk.offered)}")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_UPLOAD:
                return refuse(413, f"the file is larger than {MAX_UPLOAD // 2**20} MB; make the image smaller")
        if not body:
            return refuse(400, "no image was sent")
        try:
            found = await run_in_threadpool(lambda: answer(desk.segment(name, bytes(body))))
        except (DatasetError, ValueError) as error:
            return refuse(422, str(error))
        return JSONResponse(found, headers=HEADERS)

    routes = [Route(path, page) for path in FILES]
    routes += [Route("/models", models), Route("/segment", segment, methods=["POST"])]
    routes += [Route("/sample", sample)]
    guard = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)] if hosts else []
    return Starlette(routes=routes, middleware=guard)


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is of this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
        allow_unverified: accept weights that nobody vouches for.
        device: as `fullyconv.load` takes it.

    Raises:
        ImportError: without starlette and uvicorn.
        ValueError: if a model cannot be loaded, or the port is none.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port}: a number in 0..65535")
    offered = offers(sources)
    for offer in offered if sources else ():
        load(
            offer.source, allow_unverified=allow_unverified, device=device
        )  # a wrong name is said now, not to the first visitor
    hosts = ["127.0.0.1", "localhost", "[::1]"] if is_loopback(host) else []
    application = app(offered, hosts=hosts, allow_unverified=allow_unverified, device=device)
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("fullyconv serve needs starlette and uvicorn: pip install 'fullyconv[serve]'") from error
    if not hosts:
        print(f"listening on {host}: whoever can reach this machine can use the page")
    uvicorn.run(application, host=host, port=port, log_level="info", access_log=False, server_header=False)
