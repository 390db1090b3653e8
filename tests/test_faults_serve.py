"""Faults of the web page that were seen, each stated as what is wanted. A row is named by its number, as ``c3``."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import fullyconv
from conftest import EPS
from fullyconv import cli
from fullyconv import serve as serving
from hub_server import hold_port

pytest.importorskip("starlette")
pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
from starlette.testclient import TestClient  # noqa: E402


def application(model: Path) -> Any:
    from fullyconv.serve import app, offers

    return app(offers([str(model)]))


def png(height: int = 40, width: int = 56) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return fullyconv.SegmentationModule("same_convolutions", classes=["a", "b"]).save_pretrained(tmp_path / "mine")


def replace_predict(monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], Any]], Any]) -> None:
    """Let `around` decide when a prediction is computed."""
    real = fullyconv.SegmentationModule.predict

    def predict(self: Any, *arguments: Any, **options: Any) -> Any:
        return around(lambda: real(self, *arguments, **options))

    monkeypatch.setattr(fullyconv.SegmentationModule, "predict", predict)


async def ask(
    app: Any,
    body: bytes,
    *,
    whole: bool = True,
    leaves: bool = False,
    sent: Callable[[], None] = lambda: None,
    query: bytes = b"model=mine",
    headers: Sequence[tuple[bytes, bytes]] = (),
    parts: int = 1,
) -> int | None:
    """Send an image as a client does, and give the status of the answer; None where there was none.

    Args:
        app: the web application.
        body: of the request.
        whole: whether it is all of it.
        leaves: whether the client is gone once it has sent that.
        sent: called when the application has taken the body, or a part of it.
        query: behind the address.
        headers: beside that of the host.
        parts: in which the body arrives.
    """
    step = -(-len(body) // parts)
    messages = [
        {"type": "http.request", "body": body[start : start + step], "more_body": not whole or start + step < len(body)}
        for start in reversed(range(0, len(body), step))
    ]
    status = None

    async def receive() -> dict[str, Any]:
        if messages:
            sent()
            return messages.pop()
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/segment", "raw_path": b"/segment", "root_path": "", "query_string": query,
        "headers": [(b"host", b"127.0.0.1:8000"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    return status


def test_an_image_is_answered(model: Path) -> None:
    assert asyncio.run(ask(application(model), png())) == 200


# ---- C2: what Pillow opens ------------------------------------------------------------------------------------------


def test_c2_an_upload_of_eps_bytes_never_reaches_ghostscript(model: Path, ghostscript: Path) -> None:
    assert asyncio.run(ask(application(model), EPS)) == 422
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["PCX", "SGI", "DDS", "TGA"])
def test_c2_uploads_of_formats_that_no_message_names_are_refused(kind: str, model: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 200)).save(stream, kind)
    assert asyncio.run(ask(application(model), stream.getvalue())) == 422


# ---- C3: many clients at once ---------------------------------------------------------------------------------------


def test_c3_few_images_are_held_decoded_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Any] = []
    held, most, lock = 0, 0, threading.Lock()
    real = ImageFile.ImageFile.load

    def load(self: Any) -> Any:
        nonlocal held, most
        with lock:
            if all(other is not self for other in known):
                known.append(self)
                held += 1
                most = max(most, held)
        return real(self)

    def around(predict: Callable[[], Any]) -> Any:
        nonlocal held
        time.sleep(0.1)
        result = predict()
        with lock:
            held -= 1
        return result

    async def many() -> list[int | None]:
        return await asyncio.gather(*(ask(app, png()) for _ in range(8)))

    app = application(model)
    asyncio.run(ask(app, png()))  # what is loaded late is loaded now
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    replace_predict(monkeypatch, around)
    assert 200 in asyncio.run(many())
    assert 1 <= most <= 2


def test_c3_clients_beyond_a_bound_are_told_to_come_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def around(predict: Callable[[], Any]) -> Any:
        free.wait(60)
        return predict()

    async def many(number: int) -> list[int | None]:
        taken: set[int] = set()
        asking = [asyncio.create_task(ask(app, png(8, 8), sent=lambda n=n: taken.add(n))) for n in range(number)]
        while any(not task.done() and n not in taken for n, task in enumerate(asking)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # a refusal after the body was taken
        free.set()
        return await asyncio.gather(*asking)

    app = application(model)
    replace_predict(monkeypatch, around)
    statuses = asyncio.run(many(100))
    assert set(statuses) == {200, 503}


def test_c3_the_image_of_a_client_that_left_is_not_segmented(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, free = threading.Event(), threading.Event()
    number = 0

    def around(predict: Callable[[], Any]) -> Any:
        nonlocal number
        number += 1
        begun.set()
        free.wait(60)
        return predict()

    async def two() -> int | None:
        first = asyncio.create_task(ask(app, png()))
        assert await asyncio.to_thread(begun.wait, 60)
        taken = asyncio.Event()
        second = asyncio.create_task(ask(app, png(), leaves=True, sent=taken.set))
        await taken.wait()
        await asyncio.sleep(0.1)
        free.set()
        await second
        return await first

    app = application(model)
    replace_predict(monkeypatch, around)
    assert asyncio.run(two()) == 200
    assert number == 1


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [(b"model=none", [], 404), (b"model=mine", [(b"origin", b"http://evil.test")], 403)],
)
def test_a_client_that_is_refused_is_heard_to_its_end_so_that_it_reads_the_answer(
    query: bytes, headers: list[tuple[bytes, bytes]], status: int, model: Path
) -> None:
    heard: list[None] = []
    asking = ask(application(model), png(), query=query, headers=headers, parts=5, sent=lambda: heard.append(None))
    assert asyncio.run(asking) == status
    assert len(heard) == 5


def test_c3_a_client_that_leaves_in_the_middle_of_its_upload_is_no_error(model: Path) -> None:
    assert asyncio.run(ask(application(model), png()[:100], whole=False, leaves=True)) != 500


def test_a_client_that_left_while_it_waited_leaves_its_place_to_another(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free = threading.Event(), threading.Event()

    def around(predict: Callable[[], Any]) -> Any:
        begun.set()
        free.wait(60)
        return predict()

    async def many() -> list[int | None]:
        first = asyncio.create_task(ask(app, png()))
        assert await asyncio.to_thread(begun.wait, 60)
        gone = [asyncio.create_task(ask(app, png(), leaves=True)) for _ in range(serving.PLACES - 1)]
        refused = asyncio.create_task(ask(app, png()))
        await asyncio.wait({refused, *gone})
        last = asyncio.create_task(ask(app, png()))
        await asyncio.sleep(0.1)
        free.set()
        return [await refused, await first, await last]

    app = application(model)
    replace_predict(monkeypatch, around)
    assert asyncio.run(many()) == [503, 200, 200]


@pytest.mark.parametrize(("late", "status"), [("upload", 408), ("turn", 503)])
def test_an_upload_and_the_wait_for_a_turn_are_bounded_in_seconds(
    late: str, status: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    def around(predict: Callable[[], Any]) -> Any:
        free.wait(60)
        return predict()

    async def two() -> list[int | None]:
        first = asyncio.create_task(ask(app, png()))
        await asyncio.sleep(0.05)
        second = await ask(app, png() if late == "turn" else png()[:100], whole=late == "turn")
        free.set()
        return [await first, second]

    app = application(model)
    asyncio.run(ask(app, png(), sent=free.set))
    free.clear()
    monkeypatch.setattr(serving, "SECONDS", 0.2)
    replace_predict(monkeypatch, around)
    assert asyncio.run(two()) == [200, status]  # what has begun is waited for


def test_a_refusal_says_when_to_come_again() -> None:
    refusal = serving.refuse(503, "busy")
    assert int(refusal.headers["retry-after"]) > 0
    assert "retry-after" not in serving.refuse(422, "no image").headers


SERVER = """
import sys, time
import fullyconv
from fullyconv import cli

real = fullyconv.SegmentationModule.predict
seconds = float(sys.argv.pop(1))

def predict(self, *arguments, **options):
    print("begun", flush=True)
    time.sleep(seconds)
    return real(self, *arguments, **options)

fullyconv.SegmentationModule.predict = predict
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


class Server:
    """``fullyconv serve`` in a process of its own, which takes so many seconds more for an image."""

    def __init__(self, model: Path, seconds: float) -> None:
        self._held = hold_port()
        self.port = self._held.getsockname()[1]
        words = [sys.executable, "-c", SERVER, str(seconds), str(model), "--port", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.clients: list[socket.socket] = []

    def __enter__(self) -> Server:
        while self.process.poll() is None:
            try:
                self.connect().close()
                break
            except OSError:
                time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        for each in (*self.clients, self._held):
            each.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def send(self, image: bytes, whole: bool = True) -> socket.socket:
        """Ask for an image, or for half of it, and do not wait for the answer."""
        head = f"POST /segment?model=mine HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(image)}\r\n"
        self.clients.append(self.connect())
        self.clients[-1].sendall(head.encode() + b"\r\n" + image[: len(image) if whole else len(image) // 2])
        return self.clients[-1]

    def peak(self) -> int:
        """Give the most bytes of memory that the process has had."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_c3_a_server_that_is_told_to_end_does_so_in_seconds_and_in_silence(how: int, model: Path) -> None:
    with Server(model, 60) as server:
        clients = [server.send(png()) for _ in range(5)]
        server.send(png(), whole=False)
        server.send(png(), whole=False).close()
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "begun\n"
        time.sleep(1)  # until all have come in
        server.process.send_signal(how)
        printed, told = server.process.communicate(timeout=30)  # of 60 that one image takes
        assert "begun" not in printed
        assert "Traceback" not in told
        assert "ERROR" not in told
        assert server.process.returncode == -how
        statuses = [client.recv(12) for client in clients]
        assert statuses == [b"HTTP/1.1 503"] * 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_c3_two_hundred_clients_are_answered_each_and_take_no_more_memory_than_few(model: Path) -> None:
    stream = io.BytesIO()
    Image.new("P", (1200, 1000)).save(stream, "PNG")  # 3.6 MB decoded
    image = stream.getvalue()
    with Server(model, 0) as server:
        threading.Thread(target=server.process.stdout.read, daemon=True).start()  # type: ignore[union-attr]
        assert server.send(image).recv(12) == b"HTTP/1.1 200"
        alone = server.peak()
        clients = [server.send(image) for _ in range(200)]
        statuses = [client.recv(12)[-3:] for client in clients]
        assert set(statuses) == {b"200", b"503"}
        assert statuses.count(b"200") >= serving.PLACES
        assert server.peak() < alone + 200e6  # each decoded at once would be 720 MB
        assert server.send(image).recv(12) == b"HTTP/1.1 200"


# ---- C20: what --host means -----------------------------------------------------------------------------------------


@pytest.fixture
def listening(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, Any, str]]:
    """Give a function that calls ``serve --host``: the exit status, the application and the address it listens on."""
    found: list[tuple[Any, str]] = []

    def note(self: Any, sockets: Any = None) -> None:
        self.started = True
        found.append((self.config.app, sockets[0].getsockname()[0] if sockets else self.config.host))

    async def note_later(self: Any, sockets: Any = None) -> None:
        note(self, sockets)

    look_up = socket.getaddrinfo

    def known(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "pc.test" else host, *arguments, **options)

    monkeypatch.setattr(uvicorn.Server, "run", note)
    monkeypatch.setattr(uvicorn.Server, "serve", note_later)
    monkeypatch.setattr(socket, "getaddrinfo", known)

    def listen(host: str) -> tuple[int, Any, str]:
        with hold_port() as held:
            port = held.getsockname()[1]
        status = cli.main(["serve", str(model), "--host", host, "--port", str(port)])
        return (status, *(found.pop() if found else (None, "")))

    return listen


def answers(app: Any, host: str) -> int:
    """Give the status of an answer to a request with a Host header."""
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        return client.get("/models", headers={"host": f"{host}:8000"}).status_code


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("::1", "[::1]"),
        ("127.1", "127.0.0.1"),
        ("LOCALHOST", "localhost"),
        ("pc.test", "pc.test"),
    ],
)
def test_c20_the_address_that_was_chosen_answers(
    host: str, called: str, listening: Callable[[str], tuple[int, Any, str]]
) -> None:
    status, app, _ = listening(host)
    assert status == 0
    assert answers(app, called) == 200


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.0.0.2",
        "::1",
        "127.1",
        "LOCALHOST",
        "pc.test",
    ],
)
def test_c20_a_server_for_this_machine_alone_refuses_other_names_by_whatever_word_it_is_chosen(
    host: str, listening: Callable[[str], tuple[int, Any, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, app, _ = listening(host)
    assert status == 0
    assert "whoever can reach" not in capsys.readouterr().out
    assert answers(app, "evil.test") == 400


def test_c20_an_empty_address_is_refused_or_this_machine_alone_or_said_to_be_all(
    listening: Callable[[str], tuple[int, Any, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, app, address = listening("")
    printed = capsys.readouterr()
    if status == 2:
        assert "--host" in printed.err
    elif address in ("127.0.0.1", "::1", "localhost"):
        assert answers(app, "evil.test") == 400
    else:
        assert any(word in printed.out for word in ("0.0.0.0", "::", "every", "all addresses"))
