"""Receive the progress of nodes from a running server, over the websocket that the host's own frontend uses."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp

Hear = Callable[[str, int, int], None]
CONNECT_SECONDS = 30


@contextmanager
def heard(url: str, hear: Hear) -> Iterator[None]:
    """Call hear(node, value, total) at each step of a node's progress inside this context, from a separate thread."""
    loop, connected = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(_listen(url, hear, connected))
    thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
    thread.start()
    try:
        if not connected.wait(CONNECT_SECONDS):
            raise RuntimeError(f"the server at {url} did not open its websocket within {CONNECT_SECONDS} s.")
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))


async def _listen(url: str, hear: Hear, connected: threading.Event) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws", max_msg_size=0) as socket:
        connected.set()
        async for message in socket:
            # Previews arrive as bytes between the texts.
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if event.get("type") == "progress":
                data = event["data"]
                hear(str(data["node"]), data["value"], data["max"])
