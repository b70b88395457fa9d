"""The fields that the registry reads, and a test that the packed archive is a working pack."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from comfy_config.config_parser import extract_node_configuration
from comfyui_omnix import nodes
from comfyui_omnix.converters.version import VERSION
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.graphs import graph_of, pointed
from comfyui_omnix.lab.host.server import PACK, ROOT, Server
from comfyui_omnix.lab.host.tiny_models import DOUBLES, ModelNames, write_models
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SEMVER = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
DEVELOPMENT = {".ci", ".github", ".gitignore", ".comfyignore", "MANIFEST.in", "lab", "dev.py", "tests"}
DEVELOPMENT |= {"CONTRIBUTING.md", "CITATION.cff"}


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_name(metadata: dict[str, Any]) -> None:
    name = metadata["project"]["name"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?=[a-z0-9]))*", name) and len(name) < 100
    assert "comfyui" not in name
    assert name == PACK


def test_version(metadata: dict[str, Any]) -> None:
    version = metadata["project"]["version"]
    assert re.fullmatch(SEMVER, version)
    newest = re.search(r"(?m)^## (\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None and newest[1] == version
    assert version == VERSION


def test_licence(metadata: dict[str, Any]) -> None:
    assert metadata["project"]["license"] == "Apache-2.0" and metadata["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_description_and_readme(metadata: dict[str, Any]) -> None:
    assert 40 < len(metadata["project"]["description"]) < 200
    assert (ROOT / metadata["project"]["readme"]).is_file()


def test_nothing_is_installed_beside_the_host(metadata: dict[str, Any]) -> None:
    assert metadata["project"]["dependencies"] == []
    assert not (ROOT / "requirements.txt").exists() and not (ROOT / "install.py").exists()


def test_python(metadata: dict[str, Any], comfyui: Path) -> None:
    host = tomllib.loads((comfyui / "pyproject.toml").read_text(encoding="utf-8"))
    assert metadata["project"]["requires-python"] == host["project"]["requires-python"]


def test_classifiers_promise_no_system_or_card_that_the_pack_never_ran_on(metadata: dict[str, Any]) -> None:
    """The Manager warns on every system that such a list leaves out: a list of what was run would warn the others."""
    assert metadata["project"]["classifiers"] == []


def test_addresses(metadata: dict[str, Any]) -> None:
    urls = metadata["project"]["urls"]
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w-]+", urls["Repository"])
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert {"Repository", "Documentation", "Issues"} <= set(urls)


def test_publisher_and_display_name(metadata: dict[str, Any]) -> None:
    comfy = metadata["tool"]["comfy"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", comfy["PublisherId"])
    assert comfy["DisplayName"] == "OmniX Panorama"
    assert "web" not in comfy, "the host would load our scripts twice"


@pytest.mark.parametrize(("field", "shape"), [("Icon", (1, 1)), ("Banner", (21, 9))])
def test_pictures(metadata: dict[str, Any], field: str, shape: tuple[int, int]) -> None:
    raw = metadata["project"]["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    url = metadata["tool"]["comfy"][field]
    assert url.startswith(raw)
    picture = ROOT / url.removeprefix(raw)
    root = ElementTree.parse(picture).getroot()
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    assert width * shape[1] == height * shape[0]
    assert root.attrib["viewBox"] == f"0 0 {width} {height}"
    assert field != "Icon" or width <= 400
    assert "<script" not in picture.read_text(encoding="utf-8").lower()


def test_host_version(metadata: dict[str, Any], comfyui: Path) -> None:
    """Parts with fewer than three numbers would be dropped without a word."""
    floor = re.fullmatch(rf">=({SEMVER})", metadata["tool"]["comfy"]["requires-comfyui"])
    assert floor is not None
    version = (comfyui / "comfyui_version.py").read_text(encoding="utf-8").split('"')[-2]
    assert numbers(version) >= numbers(floor[1]) >= numbers("0.14.0"), "NodeReplace came with 0.14.0"
    assert f"ComfyUI {floor[1]} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_host_reads_the_same(metadata: dict[str, Any]) -> None:
    """Read by the parser that ComfyUI and comfy-cli share."""
    read = extract_node_configuration(str(ROOT))
    assert read is not None
    assert (read.project.name, read.project.version) == (metadata["project"]["name"], metadata["project"]["version"])
    assert read.project.urls.repository == metadata["project"]["urls"]["Repository"]
    assert read.tool_comfy.publisher_id == metadata["tool"]["comfy"]["PublisherId"]
    assert read.tool_comfy.display_name == metadata["tool"]["comfy"]["DisplayName"]
    assert read.tool_comfy.icon == metadata["tool"]["comfy"]["Icon"]
    assert read.project.license.text == "Apache-2.0"


def test_list_of_nodes() -> None:
    listed = json.loads((ROOT / "node_list.json").read_text(encoding="utf-8"))
    assert list(listed) == [node.__name__ for node in nodes.NODES]


def test_publish_workflow(metadata: dict[str, Any]) -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert "Comfy-Org/publish-node-action@" in text and "pyproject.toml" in text
    assert "needs: ci" in text and "uses: ./.github/workflows/ci.yml" in text
    assert metadata["project"]["urls"]["Repository"].endswith(re.search(r"repository == '(.+)'", text)[1])  # type: ignore[index]
    assert re.findall(r"secrets\.\w+", text) == ["secrets.REGISTRY_ACCESS_TOKEN"]


def test_actions_are_pinned_by_commit() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (?!\./)(\S+)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def test_public_ci_runs_the_same_command_as_ours() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: bash .ci/run" in text and "pull_request:" in text and "push:" in text


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout of the working tree, so that the package does not depend on other files of this machine."""
    copy = tmp_path_factory.mktemp("checkout") / "pack"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis"))
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


def comfy(checkout: Path, command: str) -> str:
    """Run `comfy node COMMAND` without a network, a home or a report to anybody; return what it said."""
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "HTTP", "HTTPS")}
    environment = os.environ | nowhere | {"HOME": str(checkout.parent), "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    tool = str(Path(sys.executable).with_name("comfy.exe" if sys.platform == "win32" else "comfy"))
    done = subprocess.run(
        [tool, "--skip-prompt", "node", command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_comfy_node_validate(checkout: Path) -> None:
    said = comfy(checkout, "validate")
    assert "All validation checks passed" in said
    assert "warning" not in said.lower()


def test_comfy_node_validate_looks_at_the_code(checkout: Path, tmp_path: Path) -> None:
    """The check above relies on ruff, which the tool does not miss when it is absent."""
    bad = shutil.copytree(checkout, tmp_path / "pack")
    (bad / "bad.py").write_text("eval(input())\n")
    assert "Security warnings found" in comfy(bad, "validate")


@pytest.fixture(scope="module")
def packed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that the registry would get, unpacked."""
    comfy(checkout, "pack")
    target = tmp_path_factory.mktemp("unpacked") / PACK
    with zipfile.ZipFile(checkout / "node.zip") as archive:
        archive.extractall(target)
    return target


def test_what_is_packed(packed: Path) -> None:
    found = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert not {name.split("/")[0] for name in found} & DEVELOPMENT
    assert {"__init__.py", "nodes.py", "pyproject.toml", "LICENSE", "README.md", "node_list.json"} <= found
    assert {"web/viewer.js", "locales/zh/nodeDefs.json", "converters/__main__.py", "omnix/runtime/patch.py"} <= found
    assert {f"web/docs/{node.__name__}.md" for node in nodes.NODES} <= found
    assert {"sample/omnix_sample_room.png", "sample/omnix_sample_room_depth.png"} <= found
    assert len([name for name in found if re.fullmatch(r"workflows/[^/]+\.json", name)]) >= 8
    assert not [name for name in found if name.startswith("workflows/") and name.endswith(".py")]
    assert sum(path.stat().st_size for path in packed.rglob("*") if path.is_file()) < 4e6


@pytest.mark.server
def test_the_packed_archive_runs_the_depth_graph(packed: Path, comfyui: Path, tmp_path: Path) -> None:
    names = ModelNames()
    write_models(tmp_path / "models")
    for seed, stream in enumerate(("rgb", "depth")):
        target = tmp_path / "models" / "loras" / "OmniX" / "rgb_to_depth" / stream / "pytorch_lora_weights.safetensors"
        tiny.save(tiny.adapter(seed=seed), target)
    picture = tmp_path / "panorama.png"
    Image.radial_gradient("L").resize((256, 128)).convert("RGB").save(picture)
    packs = {PACK: packed, "tiny_text_encoders": DOUBLES / "tiny_text_encoders"}
    with Server(comfyui, tmp_path, packs) as server:
        changes = {
            "UNETLoader": {"unet_name": names.flux},
            "VAELoader": {"vae_name": names.vae},
            "DualCLIPLoader": {"clip_name1": names.clip_l, "clip_name2": names.t5},
            "OmniXLoadPanorama": {"image": server.upload(picture), "height": 128},
            "KSampler": {"steps": 2},
        }
        result = server.run(pointed(graph_of("rgb_to_depth"), changes))
        saved = [file for node in result.outputs for file in result.files(node) if file["type"] == "output"]
        assert saved and all(len(server.fetch(file)) > 100 for file in saved)
        assert set(json.loads((packed / "node_list.json").read_text("utf-8"))) == {
            node for node in json.loads((packed / "node_list.json").read_text("utf-8")) if server.node_info(node)
        }
