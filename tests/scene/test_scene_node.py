"""The node Panorama to 3D Scene: on a real server, and what it says to wrong inputs."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from comfyui_omnix.graph import scene as node
from comfyui_omnix.graph.maps import OmniXNormal
from comfyui_omnix.lab.host.server import GraphError, Server
from comfyui_omnix.mapfiles.nyu40 import CLASSES
from numpy.typing import NDArray
from PIL import Image
from rays import hall, with_box
from test_files import pictured

HEIGHT = 32
DISTANCE = torch.from_numpy(hall(HEIGHT)[0]).float()[None]
IMAGE = torch.rand(1, HEIGHT, 2 * HEIGHT, 3, generator=torch.Generator().manual_seed(0))


def made(**inputs: Any) -> Any:
    return node.OmniXScene.execute(**{"image": IMAGE, "depth": DISTANCE, **inputs})


def said(**inputs: Any) -> str:
    with pytest.raises(ValueError) as refused:
        made(**inputs)
    return str(refused.value)


def upload(server: Server, folder: Path, name: str, values: NDArray[Any]) -> str:
    """Put values [H, W] in [0, 1] on the server as a grey picture."""
    path = folder / f"{name}.png"
    Image.fromarray((values * 255 + 0.5).astype(np.uint8)).convert("RGB").save(path)
    return server.upload(path)


def graph_of(pictures: Mapping[str, str], scene: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph that loads pictures by name, reads `far` and `near` as a batch of depths, and makes scenes."""
    loaders = {name: {"class_type": "LoadImage", "inputs": {"image": file}} for name, file in pictures.items()}
    linked = {"image": ["both", 0], "depth": ["depth", 1], **scene}
    return loaders | {
        "both": {"class_type": "ImageBatch", "inputs": {"image1": ["far", 0], "image2": ["near", 0]}},
        "depth": {
            "class_type": "OmniXDepth",
            "inputs": {"image": ["both", 0], "stretch": False, "near": 0.0, "far": 100.0},
        },
        "scene": {"class_type": "OmniXScene", "inputs": linked},
        "save": {"class_type": "SaveGLB", "inputs": {"mesh": ["scene", 0], "filename_prefix": "batch"}},
    }


@pytest.fixture(scope="module")
def pictures(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("depths")
    given = {"far": hall(HEIGHT)[0] / 12, "near": with_box(HEIGHT)[0] / 12, "small": hall(HEIGHT // 2)[0] / 12}
    given["flat"] = np.full((HEIGHT, 2 * HEIGHT), 0.2)
    return {name: upload(server, folder, name, values) for name, values in given.items()}


@pytest.mark.server
def test_a_batch_is_a_file_for_each(server: Server, pictures: dict[str, str]) -> None:
    result = server.run(graph_of(pictures, {"camera_height": 2.0, "textures": "JPEG"}))
    files = result.files("save", "3d")
    assert len(files) == 2 and files[0]["filename"] != files[1]["filename"]
    far, near = (trimesh.load(io.BytesIO(server.fetch(file)), file_type="glb", force="mesh") for file in files)
    below = np.abs(far.vertices[:, [0, 2]]).max(axis=1) < 1e-3
    assert np.isclose(far.vertices[below, 1].min(), -2.0)
    # The panel stands 2 m ahead where the hall has its end at 8; both are scaled by the same floor.
    ahead = [
        np.linalg.norm(mesh.vertices[np.abs(mesh.vertices[:, :2]).max(axis=1) < 0.5], axis=1) for mesh in (near, far)
    ]
    assert ahead[0].min() < 0.4 * ahead[1].min()


@pytest.mark.server
@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (
            {"normal": ["small", 0]},
            "The normal is 32x16 (batch 1) but the depth is 64x32 (batch 2); make size and batch",
        ),
        ({"image": ["flat", 0]}, "The image is 64x32 (batch 1) but the depth is 64x32 (batch 2); make size and batch"),
    ],
)
def test_the_server_tells_what_does_not_fit(
    server: Server, pictures: dict[str, str], scene: dict[str, Any], words: str
) -> None:
    with pytest.raises(GraphError, match=words.replace("(", r"\(").replace(")", r"\)")) as refused:
        server.run(graph_of(pictures, scene))
    assert refused.value.node == "scene"


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (DISTANCE * 0, "The depth is 0 everywhere"),
        (DISTANCE * 0 + 0.5, "The depth is 0.5 everywhere"),
        (torch.where(DISTANCE > 5, torch.nan, DISTANCE), "NaN or infinite values"),
        (DISTANCE[:, :16], "The image is 64x32 .* but the depth is 64x16"),
    ],
)
def test_bad_depth_gets_its_sentence(depth: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(depth=depth)


def test_depth_is_one_of_two() -> None:
    assert "one of them" in said(depth=None)
    assert "one of them" in said(moge_geometry={"points": torch.zeros(1, HEIGHT, 2 * HEIGHT, 3)})


def test_a_geometry_of_a_picture_is_refused_and_one_of_a_panorama_is_read() -> None:
    points = DISTANCE[..., None] * torch.nn.functional.normalize(torch.randn(1, HEIGHT, 2 * HEIGHT, 3), dim=-1)
    perspective = {"points": points, "intrinsics": torch.eye(3)[None]}
    assert "not a panorama's" in said(depth=None, moge_geometry=perspective)
    assert "not a panorama's" in said(depth=None, moge_geometry={"depth": DISTANCE})
    one, two = made(cut=False), made(depth=None, moge_geometry={"points": points}, cut=False)
    assert torch.allclose(one.args[1][0].vertices, two.args[1][0].vertices, rtol=1e-4)


def test_a_patch_of_sunlight_on_the_floor_is_no_lamp_if_the_semantic_map_is_known() -> None:
    """What the file says that it emits: a window does, and the patch below it only where nothing says what it is."""
    height, window, patch = 64, (slice(24, 28), slice(10, 20)), (slice(56, 60), slice(40, 60))
    picture = np.full((height, 2 * height, 3), 0.5, dtype=np.float32)
    picture[window], picture[patch] = 1.0, 1.0
    painted = np.zeros_like(picture)
    painted[height // 2 + 1 :] = np.array(dict(CLASSES)["floor"]) / 255
    maps = {"image": picture, "albedo": np.full_like(picture, 0.5), "depth": hall(height)[0]}
    given = {name: torch.from_numpy(pixels)[None].float() for name, pixels in maps.items()}
    for known, shines in (({}, 1.0), ({"semantic": torch.from_numpy(painted)[None]}, 0.0)):
        (file,), _, _ = made(**given, **known, camera_height=0.0).args
        tree = pygltflib.GLTF2.load_from_bytes(file.get_bytes())
        glow = pictured(tree, next(one.emissiveTexture for one in tree.materials if one.emissiveTexture))
        assert glow[window].min() == 1.0
        assert glow[patch].max() == shines


def test_more_triangles_than_there_are_is_told() -> None:
    mesh, report = (given[0] for given in made(triangles=1_000_000, max_error=0.0).args[1:])
    assert "1,000,000 triangles were allowed, more than there are." in report
    assert mesh.faces.shape[1] <= 2 * 2 * HEIGHT * (HEIGHT - 1)


def test_cuts_that_need_more_triangles_make_the_mesh_coarser() -> None:
    noise = torch.rand(1, HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(1)) + 0.1
    mesh, report = (given[0] for given in made(depth=noise, triangles=500).args[1:])
    assert "The cuts need more than 500 triangles" in report and mesh.faces.shape[1] <= 500


class NewerMesh:
    """MESH as hosts after 0.30 have it."""

    def __init__(
        self,
        vertices: torch.Tensor,
        faces: torch.Tensor,
        uvs: Any = None,
        texture: Any = None,
        unlit: bool = False,
        metallic_roughness: Any = None,
        normals: Any = None,
        tangents: Any = None,
        normal_map: Any = None,
        occlusion_in_mr: bool = False,
        material: Any = None,
    ) -> None:
        self.__dict__ |= {name: value for name, value in locals().items() if name != "self"}


class OldMesh:
    """MESH as the oldest hosts have it."""

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        self.vertices, self.faces = vertices, faces


@pytest.mark.parametrize("kind", [NewerMesh, OldMesh])
def test_a_mesh_has_every_field_that_the_host_knows(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "Types", SimpleNamespace(MESH=kind, File3D=node.Types.File3D))
    inwards = -torch.nn.functional.normalize(torch.from_numpy(hall(HEIGHT)[1]).float(), dim=-1)[None]
    mesh = made(albedo=IMAGE, normal=inwards * -0.5 + 0.5, roughness=IMAGE, occlusion=IMAGE).args[1][0]
    count = mesh.vertices.shape[1]
    assert mesh.vertices.shape == (1, count, 3) and mesh.faces.min() >= 0 and mesh.faces.max() < count
    if kind is OldMesh:
        return
    shapes = {"uvs": (1, count, 2), "normals": (1, count, 3), "tangents": (1, count, 4)}
    shapes |= dict.fromkeys(("texture", "normal_map", "metallic_roughness"), (1, HEIGHT, 2 * HEIGHT, 3))
    assert {name: tuple(getattr(mesh, name).shape) for name in shapes} == shapes
    assert mesh.occlusion_in_mr and not mesh.unlit and mesh.material is None
    assert torch.allclose(mesh.metallic_roughness[..., 1], IMAGE[..., 0])


def test_normals_for_directx_are_turned_to_fit_the_depth_too() -> None:
    """Green was inverted first, and the result refused with the advice to set what was set."""
    distance, normals, *_ = hall(128)
    cosine, sine = np.cos(np.radians(40)), np.sin(np.radians(40))
    x, y, z = np.moveaxis(normals, -1, 0)
    off = np.stack([cosine * x - sine * z, y, sine * x + cosine * z], axis=-1)
    given = torch.from_numpy(off * 0.5 + 0.5).float()[None], torch.from_numpy(distance).float()[None]
    (opengl,), (directx,) = (OmniXNormal.execute(given[0], form, given[1]).args for form in ("OpenGL", "DirectX"))
    degrees = np.degrees(np.arccos(np.clip(((opengl[0].numpy() * 2 - 1) * normals).sum(-1), -1, 1)))
    assert np.median(degrees) < 1
    assert torch.allclose(directx, torch.stack([opengl[..., 0], 1 - opengl[..., 1], opengl[..., 2]], -1), atol=1e-5)
