"""Let every noise that a sampler draws go on past the seam: what is appended equals what it was copied from.

The appended columns stand for the first ones. If a stochastic sampler gave them noise of their own, blending the two
would leave the seam with less deviation than the rest of the picture, and so with less detail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

_DRAWS = frozenset(
    (
        *(torch.randn, torch.randn_like, torch.normal, torch.rand, torch.rand_like, torch.bernoulli),
        *(Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.log_normal_, Tensor.cauchy_, Tensor.bernoulli_),
    )
)


class PeriodicNoise(TorchFunctionMode):
    """While active, make the last `columns` columns of each random tensor [.., height, width + columns] its first.

    It is the host's samplers that draw, each in its own way (with a generator, from a Brownian tree, like another
    tensor), and those of other packs; all of them come to torch for it.
    """

    def __init__(self, height: int, width: int, columns: int) -> None:
        super().__init__()
        self.size, self.columns = (height, width + columns), columns

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one function of torch; what it drew goes on past the seam."""
        given: Mapping[str, Any] = kwargs or {}
        drawn = func(*args, **given)
        if func in _DRAWS and drawn.shape[-2:] == self.size:
            drawn[..., self.size[1] - self.columns :] = drawn[..., : self.columns]
        return drawn

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave torch as it is while FLUX runs: it draws no noise, and is not to pay for this."""
        if _get_current_function_mode() is not self:  # another thread, or somebody's own mode inside
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
