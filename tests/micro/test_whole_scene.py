"""Workflow 12 on the micro model: the second depth fits the first, and the scene shows what was drawn behind."""

import io
import json
import re
from pathlib import Path

import pytest
import trimesh
from comfyui_omnix.lab.host.server import ROOT, Server
from comfyui_omnix.lab.micro.graphs import WEIGHTS, install, on_micro
from comfyui_omnix.lab.micro.judged import own_room
from comfyui_omnix.lab.micro.recipe import JUDGED_SEED
from PIL import Image

GRAPH = ROOT / "lab" / "workflows" / "api" / "whole_scene.json"
pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]


def test_what_the_micro_model_draws_is_put_behind(server: Server, tmp_path: Path) -> None:
    install(server.base / "models", WEIGHTS)
    room = own_room(JUDGED_SEED + 4)  # of rooms 1 to 5, the second depth fits in 1, 4 and 5, and is refused in 2 and 3
    Image.fromarray((room.maps["rgb"] * 255 + 0.5).astype("uint8")).save(tmp_path / "room.png")
    graph = on_micro(json.loads(GRAPH.read_text(encoding="utf-8")), server.upload(tmp_path / "room.png"))
    graph["front"]["inputs"]["grow"] = 1  # pixels are eight times as wide as in a panorama of 1024x512
    result = server.run(graph)
    (report,) = result.outputs["report"]["text"]
    (agreeing,), (covered,) = (
        re.findall(p, report) for p in (r"same, ([\d.]+)% agree", r"covers ([\d.]+)% of the pixels")
    )
    assert float(agreeing) > 50 and float(covered) > 0.5
    (saved,) = result.files("save", "3d")
    found = trimesh.load(io.BytesIO(server.fetch(saved)), file_type="glb", force="scene").geometry
    assert "background" in found and float(re.findall(r"([\d.]+)% of the solid angle shows it", report)[0]) > 0
