"""Where the browser tests take place: one Chromium for a module, a page in each renderer, what a person downloaded."""

from collections.abc import Iterator

import pytest
from comfyui_omnix.lab.host.browser import Workbench, chromium
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames, write_models
from playwright.sync_api import Browser

# The names under which the workflows look for what people download.
DOWNLOADED = ModelNames("flux1-dev.safetensors", "ae.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=["legacy", "nodes2"])
def bench(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Workbench]:
    opened = Workbench(browser, server, request.param == "nodes2")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def stocked(server: Server, files: None) -> Server:
    """What a person has who followed the notes: adapters, a picture and models, so that nothing is missing."""
    write_models(server.base / "models", names=DOWNLOADED)
    return server


@pytest.fixture(scope="module", params=["legacy", "nodes2"])
def stocked_bench(request: pytest.FixtureRequest, browser: Browser, stocked: Server) -> Iterator[Workbench]:
    opened = Workbench(browser, stocked, request.param == "nodes2")
    yield opened
    opened.close()
