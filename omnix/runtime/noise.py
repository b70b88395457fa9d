"""Continue all noise that a sampler draws past the seam: the appended columns get the noise of the first columns.

The appended columns are copies of the first ones. If a stochastic sampler gave them different noise, blending the two
would leave the seam with less deviation than the rest of the picture, and so with less detail.

White noise is drawn in the picture's size. Other noise (pyramids, Perlin, filtered) is computed from draws of any size,
so each tensor is noted as noise, constant or picture, by what it was computed from. Noise is continued where it first
meets the picture; the picture itself is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.weak import WeakIdKeyDictionary

_DRAWS = frozenset(
    (
        *(torch.randn, torch.randn_like, torch.normal, torch.rand, torch.rand_like, torch.bernoulli, torch.poisson),
        *(torch.randint, torch.randint_like, torch.randperm, torch.multinomial),
        *(Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.log_normal_, Tensor.cauchy_, Tensor.bernoulli_),
        *(Tensor.random_, Tensor.geometric_, Tensor.bernoulli, Tensor.multinomial),
    )
)
_CONSTANTS = frozenset(
    (
        *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, Tensor.new_zeros, Tensor.new_ones),
        *(Tensor.new_empty, Tensor.new_full, Tensor.new_tensor),
    )
)
"""Functions that use a tensor's size but not its values."""
_FROM_OUTSIDE = frozenset((torch.tensor, torch.as_tensor))
_TO_OUTSIDE = frozenset((Tensor.numpy, Tensor.__array__, Tensor.tolist))

Kind = Literal["noise", "constant", "picture"]
"""The contents of a tensor: drawn noise, neither noise nor the picture, or the picture."""


class PeriodicNoise(TorchFunctionMode):
    """While active, make the last `columns` columns of all noise [.., height, width + columns] its first.

    It is the host's samplers that draw, each in its own way (with a generator, from a Brownian tree, like another
    tensor), and those of other packs; all of them come to torch for it, or bring what numpy drew.
    """

    def __init__(self, height: int, width: int, columns: int) -> None:
        super().__init__()
        self.size, self.columns = (height, width + columns), columns
        self._kinds: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._left = False
        """Whether the picture has left torch: tensors from numpy may contain the picture from then on."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one function of torch; noise that it draws, or adds to the picture, continues past the seam."""
        given: Mapping[str, Any] = kwargs or {}
        inputs: list[tuple[Tensor, Kind]] = [
            (tensor, self._kind(tensor)) for tensor in _tensors((args, tuple(given.values())))
        ]
        made = self._made(func, [kind for _, kind in inputs])
        if made == "picture":
            self._left |= func in _TO_OUTSIDE
            for tensor, kind in inputs:
                if kind == "noise":
                    self._match_seam(tensor)
                    self._kinds[tensor] = "picture"  # the function may write to it
        outcome = func(*args, **given)
        for tensor in _tensors(args[:1] if func is Tensor.__setitem__ else (outcome,)):
            self._kinds[tensor] = made
            if func in _DRAWS:
                self._match_seam(tensor)
        return outcome

    def _made(self, func: Callable[..., Any], inputs: Sequence[Kind]) -> Kind:
        """Return the contents of a function's result, given those of its inputs."""
        if func in _DRAWS:
            return "noise"
        if func in _CONSTANTS:
            return "constant"
        if "picture" in inputs or (func in _FROM_OUTSIDE and self._left):
            return "picture"
        return "noise" if "noise" in inputs or func in _FROM_OUTSIDE else "constant"

    def _kind(self, tensor: Tensor) -> Kind:
        """Return the contents of a tensor; a tensor too small for the picture (a noise level, a mean) is a constant."""
        known: Kind | None = self._kinds.get(tensor)
        if known != "noise" and tensor.numel() < self.size[0] * self.size[1]:
            return "constant"
        return known or ("noise" if _is_foreign(tensor) and not self._left else "picture")

    def _match_seam(self, noise: Tensor) -> None:
        """Make the last columns of noise of the picture's size its first, in place."""
        if noise.shape[-2:] == self.size:
            own = noise[tuple(slice(None) if stride else slice(1) for stride in noise.stride())]  # once, if expanded
            if own.shape[-1] == self.size[1]:
                own[..., self.size[1] - self.columns :] = own[..., : self.columns]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave torch unchanged while FLUX runs: FLUX draws no noise and should not become slower."""
        if _get_current_function_mode() is not self:  # another thread, or another mode inside
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


def _tensors(given: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results, those in lists and tuples too."""
    for each in given:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _is_foreign(tensor: Tensor) -> bool:
    """Return whether a tensor's memory is not torch's own but numpy's, say: torch.from_numpy can't be observed here."""
    try:
        return not tensor.untyped_storage().resizable()
    except NotImplementedError:  # wrapped by a transform of torch.func, or sparse
        return False
