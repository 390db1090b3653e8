from __future__ import annotations

import importlib
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from hub_server import Clock, FileServer, HubServer

if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many as there are cores: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> Iterator[None]:
    """Leave it to the system when bytes reach the disk: a test outlives no power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def roomy() -> Iterator[None]:
    """Let no test depend on how full the disk of this machine is."""
    usage = shutil.disk_usage(os.curdir)._replace(free=10**12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the public data sets; tests that need it are skipped where there is none."""
    root = os.environ.get("FULLYCONV_DATA")
    if not root:
        pytest.skip("set FULLYCONV_DATA=FOLDER to the folder that holds the public data sets")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def camvid(data_root: Path) -> Path:
    folder = data_root / "camvid"
    if not folder.is_dir():
        pytest.skip(f"no camvid folder under FULLYCONV_DATA={data_root}")
    return folder


NAMES = ["ground", "box", "sky"]


def write_tree(root: Path, sizes: dict[str, int], size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
    """Write a small data set that a network can learn: the color of a region tells its class.

    Args:
        root: where; each split becomes ``SPLIT/images`` and ``SPLIT/masks``.
        sizes: number of pairs of each split.
        size: (H, W) in pixels.
        seed: of the positions.
    """
    rng = np.random.default_rng(seed)
    colors = np.array([[40, 120, 40], [200, 60, 60], [90, 140, 230]])
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    height, width = size
    for split, number in sizes.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            mask = np.zeros(size, dtype=np.uint8)
            mask[: height // 3] = 2
            y, x = rng.integers(height // 4, height // 2), rng.integers(0, width // 2)
            mask[y : y + height // 3, x : x + width // 3] = 1
            image = colors[mask] + rng.integers(-20, 20, (*size, 3))
            mask[-2:] = 255
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"{index:03}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index:03}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 8, "val": 4, "test": 4})


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that asks for another machine, and keep proxies out of what stays on this one."""
    look_up = socket.getaddrinfo

    def only_here(host: Any, *args: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", "localhost"):
            raise AssertionError(f"this test asked for the address of {host!r}")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def clock() -> Clock:
    """The clock of the client of `hub`: ``clock.sleeps`` holds the seconds that its retries would have waited."""
    return Clock()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, loopback: None) -> Iterator[HubServer]:
    """A Hub on the loopback interface, used by `huggingface_hub` in this process and in those that the test starts.

    The client reads its settings once, on import, so they are set in its modules as well as in the environment: the
    endpoint, a home under ``tmp_path``, no token, online, no Xet, timeouts of 2 s; retries do not wait.
    """
    import huggingface_hub
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http

    home = tmp_path / "huggingface"
    with HubServer() as server:
        for name, value in {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
        }.items():
            monkeypatch.setenv(name, value)
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_OIDC_RESOURCE",
            "HUGGINGFACE_HUB_CACHE",
        ):
            monkeypatch.delenv(name, raising=False)
        for name, constant in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DOWNLOAD_TIMEOUT": 2,
            "HF_HUB_ETAG_TIMEOUT": 2,
        }.items():
            # Not every release has every one of them.
            monkeypatch.setattr(constants, name, constant, raising=False)
        # By its full name: huggingface_hub.utils.tqdm is the class.
        bars = importlib.import_module("huggingface_hub.utils.tqdm")
        monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        # Made on import, behind huggingface_hub.create_repo() and the like.
        monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 2, raising=False)
        monkeypatch.setattr(file_download, "time", clock)
        monkeypatch.setattr(_http, "time", clock)
        # The client passes data= to httpx when it uploads without Xet. Pytest drops the filter after the test.
        warnings.filterwarnings("ignore", r"Use 'content=<\.\.\.>' to upload raw", DeprecationWarning)
        huggingface_hub.close_session()  # one from before may hold a proxy, or connections to another server
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def files_server(monkeypatch: pytest.MonkeyPatch, loopback: None) -> Iterator[FileServer]:
    """Plain downloads from this machine, also where the environment says that there is no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FileServer() as server:
        yield server


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program called gs before all others, and give the file that is there once it was run."""
    ran = tmp_path / "ghostscript ran"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{ran}'\n[ $1 = --version ] && echo 10\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return ran


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 30
%%EndComments
0 0 40 30 rectfill
%%EOF
"""
"""A drawing that Pillow gives to Ghostscript, whatever the file is called."""


def pytest_configure(config: pytest.Config) -> None:
    # The suite runs in one process a core; several threads in each would only wait for each other.
    import torch

    torch.set_num_threads(1)
    # Of Lightning's calls of jsonargparse, which it names as errors where warnings are.
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
