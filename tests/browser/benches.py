"""Fixtures of the browser tests: one Chromium for a module, a page in each renderer, and a user's downloaded files."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.browser import Workbench, chromium
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames, write_models
from comfyui_omnix.lab.workflows.notes import YOUR_LORA, YOUR_MODEL
from playwright.sync_api import Browser

# The names under which the workflows look for what people download.
DOWNLOADED = ModelNames("flux1-dev.safetensors", "ae.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


RENDERERS = ("legacy", "nodes2")
in_both_renderers = pytest.fixture(scope="module", params=RENDERERS)


@contextmanager
def opened(browser: Browser, server: Server, nodes2: bool) -> Iterator[Workbench]:
    """A separate page, which is closed at the end."""
    page = Workbench(browser, server, nodes2)
    yield page
    page.close()


def becomes(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return whether a condition becomes true; a busy machine may take its time."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


@in_both_renderers
def bench(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Workbench]:
    with opened(browser, server, request.param == "nodes2") as page:
        yield page


@pytest.fixture(scope="module")
def stocked(server: Server, files: None) -> Server:
    """The files of a user who has followed the notes: adapters, a picture and models; nothing is missing."""
    write_models(server.base / "models", names=DOWNLOADED)
    for kind, name in (("checkpoints", YOUR_MODEL), ("loras", YOUR_LORA)):
        tiny.save({}, server.base / "models" / kind / name)
    return server


@in_both_renderers
def stocked_bench(request: pytest.FixtureRequest, browser: Browser, stocked: Server) -> Iterator[Workbench]:
    with opened(browser, stocked, request.param == "nodes2") as page:
        yield page
