"""Start a real ComfyUI server in its own folder, post graphs to it and fetch their results.

This module uses only the standard library and HTTP, like any client. Nothing is downloaded: the server runs without API
nodes, with a database in memory, and sees only the packs that it is given.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "omnix-panorama"
FOLDERS = ("models", "input", "output", "temp", "user", "custom_nodes")
NOT_INSTALLED = shutil.ignore_patterns(".*", "__pycache__", "tests", "lab", "demo-output", "node_modules", "build")
OPTIONS = ("--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:")
POLL = 0.05
# A proxy from the environment could not reach a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Graph = Mapping[str, Mapping[str, Any]]


class GraphError(RuntimeError):
    """A graph that the server refused or could not finish: `node` and `node_type` name the place, or are empty."""

    def __init__(self, message: str, node: str = "", node_type: str = "") -> None:
        super().__init__(f"{node_type} (node {node}): {message}" if node else message)
        self.message = message
        self.node = node
        self.node_type = node_type


class Interrupted(GraphError):
    """A graph that the user cancelled."""


@dataclass(frozen=True)
class Result:
    """The report of a finished graph: `outputs` maps node id -> {"images": [...], ...} as in ComfyUI's history."""

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]]
    seconds: float

    def files(self, node: str, kind: str = "images") -> list[dict[str, str]]:
        """List the files {filename, subfolder, type} that `node` made."""
        return list(self.outputs.get(node, {}).get(kind, []))


class Server:
    """A running ComfyUI; use it as a context manager.

    `base` is a fresh folder that gets models/, input/, output/ and custom_nodes/. `packs` maps folder names under
    custom_nodes to the packs that are copied there (default: this one). `options` are further options of main.py.
    OMNIX_FRONTEND names the folder of another frontend than the host's own.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        packs: Mapping[str, Path] | None = None,
        options: Sequence[str] = (),
        cpu: bool = True,
    ) -> None:
        self.comfyui = comfyui
        self.base = base
        self.packs = {PACK: ROOT} if packs is None else dict(packs)
        frontend = os.environ.get("OMNIX_FRONTEND")
        self.options = (
            *(["--cpu"] if cpu else []),
            *(["--front-end-root", frontend] if frontend else []),
            *options,
        )
        self.log = base / "server.log"
        self.port = 0
        self.startup_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 600.0) -> "Server":
        """Install the packs, start the process and return when it answers.

        Raises RuntimeError with the end of the log if it does not, or if a pack cannot be imported.
        """
        self._install()
        self.port = _free_port()
        started = time.monotonic()
        command = [sys.executable, str(ROOT / "lab" / "host" / "serve.py"), str(self.comfyui), *OPTIONS]
        command += ["--base-directory", str(self.base), "--port", str(self.port), *self.options]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.base, env=_environment()
            )
        try:
            self._wait_until_ready(timeout)
            self._check_packs()
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - started
        return self

    def stop(self) -> None:
        """End the process, first by asking; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def tail(self, lines: int = 40) -> str:
        """Return the end of the server's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def submit(self, graph: Graph) -> str:
        """Queue a graph in API format and return its id; raises GraphError if the server's checks refuse it."""
        try:
            return self.post("/prompt", {"prompt": graph})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise _refusal(json.loads(error.read())) from error

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Result:
        """Wait for a queued graph; raises GraphError with the node's message, Interrupted or TimeoutError."""
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            entry = self._get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _finished(prompt_id, entry)
            self._check_alive()
            time.sleep(POLL)
        raise TimeoutError(
            f"graph {prompt_id} did not finish within {timeout:.0f} s; the server's last lines:\n{self.tail()}"
        )

    def run(self, graph: Graph, timeout: float = 600.0) -> Result:
        """Queue a graph and wait for it."""
        return self.wait(self.submit(graph), timeout)

    def running(self) -> list[str]:
        """List the ids of the graphs that are being executed now."""
        return [item[1] for item in self._get("/queue")["queue_running"]]

    def interrupt(self) -> None:
        """Press Cancel: end the graph that runs now."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Unload all models and the cached outputs of nodes."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def node_info(self, node_type: str) -> dict[str, Any]:
        """Return the server's description of a node type for the frontend; empty if the type does not exist."""
        return self._get(f"/object_info/{urllib.parse.quote(node_type)}").get(node_type, {})

    def upload(self, source: Path, name: str | None = None) -> str:
        """Put an image into the input folder through the upload route and return its name for LoadImage."""
        fields = {"overwrite": "true", "type": "input"}
        body, kind = _multipart(fields, name or source.name, source.read_bytes())
        request = urllib.request.Request(f"{self.url}/upload/image", body, {"Content-Type": kind})
        with _OPENER.open(request, timeout=60) as answer:
            return json.loads(answer.read())["name"]

    def fetch(self, file: Mapping[str, str]) -> bytes:
        """Download one file {filename, subfolder, type} as the browser does."""
        with _OPENER.open(f"{self.url}/view?{urllib.parse.urlencode(file)}", timeout=60) as answer:
            return answer.read()

    def images(self, result: Result, node: str) -> list[bytes]:
        """Download every image that `node` made."""
        return [self.fetch(file) for file in result.files(node)]

    def _install(self) -> None:
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, source in self.packs.items():
            shutil.copytree(source, self.base / "custom_nodes" / name, ignore=NOT_INSTALLED)

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                self._get("/queue")
            except OSError:
                time.sleep(POLL)
            else:
                return
        raise RuntimeError(f"ComfyUI did not answer within {timeout:.0f} s; its last lines:\n{self.tail()}")

    def _check_packs(self) -> None:
        log = self.log.read_text(encoding="utf-8", errors="replace")
        if "(IMPORT FAILED)" in log:
            reasons = "\n".join(line for line in log.splitlines() if "Cannot import" in line)
            raise RuntimeError(f"ComfyUI could not import a custom node:\n{reasons}\nits last lines:\n{self.tail(80)}")

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the ComfyUI server has ended; its last lines:\n{self.tail()}")

    def _get(self, path: str) -> dict[str, Any]:
        with _OPENER.open(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a JSON message and return the server's answer."""
        body = json.dumps(message).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with _OPENER.open(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment() -> dict[str, str]:
    """Copy the environment and forbid the host's libraries to download anything."""
    ours = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**os.environ, **ours}


def _refusal(answer: Mapping[str, Any]) -> GraphError:
    """Turn the answer of a refused /prompt into the first node's error, or the graph's own."""
    for node, report in answer.get("node_errors", {}).items():
        for error in report["errors"]:
            return GraphError(f"{error['message']}: {error['details']}", node, report["class_type"])
    error = answer["error"]
    return GraphError(f"{error['message']}: {error['details']}")


def _finished(prompt_id: str, entry: Mapping[str, Any]) -> Result:
    """Turn a history entry into a Result, or raise its error."""
    messages = dict(entry["status"]["messages"])
    if "execution_error" in messages:
        error = messages["execution_error"]
        raise GraphError(error["exception_message"].strip(), error["node_id"], error["node_type"])
    if "execution_interrupted" in messages:
        stopped = messages["execution_interrupted"]
        raise Interrupted("the graph was cancelled", stopped["node_id"], stopped["node_type"])
    seconds = (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
    return Result(prompt_id, entry["outputs"], seconds)


def _multipart(fields: Mapping[str, str], name: str, content: bytes) -> tuple[bytes, str]:
    """Encode a form with one file `image`: (body, content type)."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n')
    parts.append("Content-Type: application/octet-stream\r\n\r\n")
    body = "".join(parts).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
