"""The host's folders for tests that read and write files as nodes do."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def host_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The host's folders, all below a temporary one."""
    import folder_paths  # the host and the pack can be imported only after this file

    folders = {}
    for name, (_, kinds) in folder_paths.folder_names_and_paths.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        folders[name] = ([str(tmp_path / "models" / name)], set(kinds))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    asyncio.run(loaded())
    yield tmp_path


async def loaded() -> None:
    """Load the extension as the host does."""
    import comfyui_omnix

    await (await comfyui_omnix.comfy_entrypoint()).on_load()
