"""DynamicVRAM, the host's memory manager for NVIDIA cards, on a CPU: the host's own code without the card's parts."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import pytest
import torch


class PinnedBuffer:
    """Replaces memory that only a card's driver can pin."""

    size = 0

    def __init__(self, *_: Any) -> None:
        pass

    def truncate(self, *_: Any, **__: Any) -> None:
        """Give back nothing."""


def use_dynamic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model that is loaded from now on have the host's dynamic patcher, which leaves the CPU to the other."""
    import comfy_aimdo.host_buffer

    class OnTheCPU(comfy.model_patcher.ModelPatcherDynamic):
        """The host's patcher without its checks that no CPU passes."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            return object.__new__(cls)

        def _vbar_get(self, create: bool = False) -> None:
            """Return the card's own memory: none."""

        def load(self, *args: Any, **kwargs: Any) -> None:
            """Let a layer's weights be patched where the CPU casts them; on a card, the copy to the card does it."""
            super().load(*args, **kwargs)
            for module in self.model.modules():
                for name in ("weight", "bias"):
                    patch = getattr(module, f"{name}_lowvram_function", None)
                    if patch is not None:
                        setattr(module, f"{name}_function", [patch, *getattr(module, f"{name}_function")])

        def partially_unload(self, *args: Any, **kwargs: Any) -> int:
            device, self.load_device = self.load_device, torch.device("cpu", 0)
            try:
                return super().partially_unload(*args, **kwargs)
            finally:
                self.load_device = device

    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", PinnedBuffer)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", OnTheCPU)
