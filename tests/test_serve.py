"""The web page: what it answers, what it refuses, and how it looks to a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullyconv
from closeness import assert_same_mask
from fullyconv import serve as serving
from fullyconv.drawing import legend_order
from fullyconv.errors import DatasetError
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels
from fullyconv.serve import Offer, app, offers, resolved

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

HERE = {"host": "127.0.0.1:8000"}


def image(height: int = 60, width: int = 80, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app(offers(), hosts=["127.0.0.1"]), base_url="http://127.0.0.1:8000") as found:
        yield found


def test_the_page_and_its_parts_are_served_with_a_policy(client: TestClient) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        got = client.get(path)
        assert got.status_code == 200
        assert got.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in got.headers["content-security-policy"]
    assert "<script src=" in client.get("/").text


def test_the_page_offers_what_ships(client: TestClient) -> None:
    rows = client.get("/models").json()
    names = [row["name"] for row in rows]
    assert names[0] == "nuclei"  # the terms of those that anybody may use come first
    assert {"pets", "steel_defects"} <= set(names)
    assert all(row["license"] for row in rows)
    classes = {row["name"]: {one["name"]: one["color"] for one in row["classes"]} for row in rows}
    assert classes["nuclei"] == {"nucleus": "#1e88e5", "background": None}
    for name in ("street", "pets"):
        assert [*classes[name]] == [fullyconv.load(name).classes[k] for k in legend_order(fullyconv.load(name).labels)]


def test_a_sample_is_served_where_one_may_be_shown(client: TestClient) -> None:
    assert [row["name"] for row in client.get("/models").json() if row["sample"]] == ["nuclei"]
    got = client.get("/sample?model=nuclei")
    assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    found = client.post("/segment?model=nuclei", content=got.content).json()
    assert [(one["name"], one["color"]) for one in found["classes"]] == [("nucleus", "#1e88e5"), ("background", None)]
    for name in ("street", "../nuclei", ""):
        assert client.get(f"/sample?model={name}").status_code == 404


def test_an_image_is_answered_with_what_predict_gives(client: TestClient) -> None:
    sent = image()
    got = client.post("/segment?model=street", content=sent)
    assert got.status_code == 200
    found = got.json()
    expected = fullyconv.load("street").predict(Image.open(io.BytesIO(sent)))
    mask = Image.open(io.BytesIO(base64.b64decode(found["mask"])))
    assert mask.mode == "P"
    assert_same_mask(mask, expected.mask)
    assert (found["width"], found["height"]) == (80, 60)
    assert Image.open(io.BytesIO(base64.b64decode(found["overlay"]))).size == (80, 60)
    shares = {one["name"]: one["share"] for one in found["classes"]}
    counts = np.bincount(np.asarray(mask).ravel(), minlength=len(expected.classes)) / (60 * 80)
    assert shares == {name: share for name, share in zip(expected.classes, counts, strict=True) if share}


@pytest.mark.parametrize(
    ("query", "content", "status", "message"),
    [
        ("model=/etc/passwd", image(), 404, "no such model here; there are nuclei"),
        ("model=../zoo", image(), 404, "no such model"),
        ("", image(), 404, "no such model"),
        ("model=street", b"", 400, "no image was sent"),
        ("model=street", b"/etc/passwd", 422, "the image"),
        ("model=street", b"GIF89a" + bytes(40), 422, "the image"),
        ("model=street", image()[:200], 422, "the image"),
    ],
)
def test_what_is_no_image_or_no_model_is_refused(
    client: TestClient, query: str, content: bytes, status: int, message: str
) -> None:
    got = client.post(f"/segment?{query}", content=content)
    assert got.status_code == status
    assert message in got.json()["error"]


def test_an_upload_and_an_image_are_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_PIXELS", 4000)
    got = client.post("/segment?model=street", content=image(200, 200))
    assert got.status_code == 422
    assert "40000" in got.json()["error"] or "200 x 200" in got.json()["error"]
    monkeypatch.setattr(serving, "MAX_UPLOAD", 1000)
    assert client.post("/segment?model=street", content=image()).status_code == 413


def test_other_sites_and_other_names_of_the_server_are_refused(client: TestClient) -> None:
    sent = image(8, 8)
    assert client.post("/segment?model=street", content=sent, headers={"origin": "http://evil.test"}).status_code == 403
    own = {"origin": "http://127.0.0.1:8000", **HERE}
    assert client.post("/segment?model=street", content=sent, headers=own).status_code == 200
    assert client.get("/models", headers={"host": "evil.test"}).status_code == 400
    assert client.get("/../pyproject.toml").status_code == 404
    assert client.get("/web/page.html").status_code == 404
    assert client.get("/segment").status_code == 405


def test_few_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Fake:
        preprocessing = SimpleNamespace(in_channels=3, value_range=None)

        def predict(self, pixels: Any) -> str:
            return "done"

    monkeypatch.setattr(serving, "load", lambda source, **_: loaded.append(source) or Fake())
    desk = serving.Desk([Offer(name, name, "", "") for name in "abcd"])
    for name in "abacadbb":
        assert desk.segment(name, image(4, 4)) == "done"  # type: ignore[comparison-overlap]
    assert loaded == ["a", "b", "c", "d", "b"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 GB")])
def test_an_image_that_memory_does_not_hold_is_refused(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        preprocessing = SimpleNamespace(in_channels=3, value_range=None)

        def predict(self, pixels: Any) -> str:
            raise error

    monkeypatch.setattr(serving, "load", lambda source, **_: Fake())
    with pytest.raises(DatasetError, match=r"^the image needs more memory .*; make it smaller"):
        serving.Desk([Offer("a", "a", "", "")]).segment("a", image(4, 4))


def test_a_mask_of_16_bits_is_answered_as_it_is() -> None:
    labels = Labels.of(["a", "b"], ignore_index=1000)
    found = serving.answer(Segmentation(np.ones((4, 4), np.uint16), labels, np.zeros((4, 4, 3), np.uint8)))
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"])))).tolist() == [[1] * 4] * 4


def test_addresses_are_decided_by_what_they_mean() -> None:
    assert [resolved(host) for host in ("127.0.0.1", "127.1", "::1", "0.0.0.0")] == [
        "127.0.0.1",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
    ]
    assert resolved("LOCALHOST") == resolved("localhost")
    for host in ("", "a" * 70 + ".test"):
        with pytest.raises(ValueError, match=r"--host .*127\.0\.0\.1"):
            resolved(host)


def test_own_models_can_be_offered() -> None:
    found = offers(["pets", "runs/mine/"])
    assert [offer.name for offer in found] == ["pets", "mine"]
    assert [len(offer.classes) for offer in found] == [2, 0]  # of a source that is no folder here they are not known
    assert [offer.name for offer in offers(["a/model", "b/model"])] == ["model", "b/model"]


# ---- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_person_drops_an_image_and_sees_what_is_where(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app(offers(), hosts=["127.0.0.1"]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    path = tmp_path / "a street.png"
    path.write_bytes(image(120, 160))
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            wrong: list[str] = []
            page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#model option", state="attached")
            assert page.locator("#classes li").all_inner_texts() == ["nucleus", "background"]
            page.select_option("#model", "street")
            (tmp_path / "a.txt").write_text("no image")
            page.set_input_files("#file", [str(path), str(tmp_path / "a.txt")])
            first, second = page.locator("article").nth(0), page.locator("article").nth(1)
            first.locator(".result").wait_for(timeout=60_000)
            assert "street: 160 x 120 pixels" in first.locator(".said").inner_text()
            expected = fullyconv.load("street").predict(path)
            named = [row.split("\t")[0].strip() for row in first.locator("tbody tr").all_inner_texts()]
            found = {name for name, share in expected.shares().items() if share > 0}
            assert named == [name for name in expected.classes if name in found]
            for link, name in ((".mask", "a street.mask.png"), (".drawn", "a street.overlay.jpg")):
                with page.expect_download() as caught:
                    first.locator(link).click()
                assert caught.value.suggested_filename == name
                caught.value.save_as(tmp_path / name)
            assert_same_mask(Image.open(tmp_path / "a street.mask.png"), expected.mask)
            with Image.open(tmp_path / "a street.overlay.jpg") as drawn:
                assert drawn.size == (160, 120)
            second.locator(".said.wrong").wait_for()  # the error of one image stands beside the result of the other
            assert page.inner_text("#state") == "1 of 2 images done, 1 failed"
            assert "422" in "".join(wrong)
            second.locator(".remove").press("Enter")
            assert page.locator("article").count() == 1
            page.select_option("#model", "pets")  # the same image, another model
            first.get_by_role("cell", name=re.compile("background|pet")).first.wait_for(timeout=60_000)
            assert [text for text in wrong if "422" not in text] == []
            browser.close()
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_comes_again_where_the_server_is_busy_and_says_where_it_is_gone() -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    busy = [503, 503, 200, 0, *[503] * 5]
    found = {
        "width": 8,
        "height": 6,
        "classes": [{"name": "a", "color": "#ff0000", "share": 1}],
        "overlay": "",
        "mask": "",
    }
    rows = [{"name": "m", "about": "", "license": "", "classes": [], "sample": True}]

    def give(route: Any) -> None:
        kind = route.request.url.partition("//there/")[2].partition("?")[0]
        if kind == "segment":
            status = busy.pop(0)
            body = found if status == 200 else {"error": "the server is busy"}
            route.fulfill(status=status, json=body, headers={"Retry-After": "1"}) if status else route.abort()
        elif kind in ("models", "sample"):
            route.fulfill(json=rows) if kind == "models" else route.fulfill(body=image(6, 8), content_type="image/png")
        else:
            path, content_type = serving.FILES[f"/{kind}"]
            route.fulfill(path=Path(serving.__file__).parent / "web" / path, content_type=content_type)

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", give)
        page.goto("http://there/")
        page.click("#sample")
        said = page.locator("article").first.locator(".said")
        page.get_by_text("The server is busy; trying again in 1 s").wait_for()
        page.get_by_text("m: 8 x 6 pixels").wait_for()
        page.get_by_text("Try the sample").press("Enter")
        page.get_by_text("The server does not answer").wait_for()
        page.locator("article").nth(1).locator(".again").press("Enter")
        page.locator(".wrong", has_text="the server is busy").wait_for()  # after five times
        assert busy == []
        assert "m: 8 x 6 pixels" in said.inner_text()
        browser.close()
