"""When two ways of computing the same thing agree, on any processor.

Processors add in different orders, so that the same arithmetic differs in its last bits, and every layer passes the
difference on. How much that is depends on how large the numbers are: tolerances are therefore relative to the scale of
what is expected. What is copied, counted or written is compared for equality instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Of the largest magnitude: what a hundred layers leave of single and double precision, with room for other kernels than
# ours, and what half precision keeps of a number that is stored in it.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
TIES = 1e-3  # share of pixels in which the best class of random scores leads by no more than rounding


def assert_close(actual: Any, expected: Any, rel: float | None = None, *, varying: tuple[int, ...] = ()) -> None:
    """Hold the largest difference of two tensors or arrays against the largest magnitude of what is expected.

    Args:
        actual: what was computed.
        expected: what it has to be; of the same shape, and as a tensor of the same type.
        rel: the largest difference, as a fraction of the largest magnitude. By default what rounding may make of the
            type of `expected`.
        varying: axes over which `expected` must vary by a hundredth of its largest magnitude: scores that hardly depend
            on the image, or on the place in it, agree whatever the code does.
    """
    found, wanted = _tensor(actual), _tensor(expected)
    assert found.shape == wanted.shape
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype
    bound = ROUNDING[wanted.dtype] if rel is None else rel
    found, wanted = found.double(), wanted.double()
    assert wanted.isfinite().all()
    scale = float(wanted.abs().max())
    if varying:
        spread = float((wanted - wanted.mean(varying, keepdim=True)).abs().max())
        assert spread > 0.01 * scale, f"varies by {spread:.1e} of {scale:.1e} over the axes {varying}: tells nothing"
    difference = float((found - wanted).abs().max())
    assert difference <= bound * scale, f"differs by {difference:.2e}, and {bound:.0e} of {scale:.2e} is rounding"


def assert_same_mask(found: Any, expected: Any, ties: float = TIES) -> None:
    """Compare two label images; classes that tie within rounding may change places, in one pixel at least."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    differing = int((found != expected).sum())
    assert differing <= max(1, ties * expected.size), f"{differing} of {expected.size} pixels differ"


def assert_same_tensors(found: nn.Module, expected: nn.Module) -> None:
    """Compare the tensors of two modules bit for bit: stored or copied numbers are not rounded again."""
    mine, theirs = found.state_dict(), expected.state_dict()
    assert list(mine) == list(theirs)
    changed = [name for name, value in theirs.items() if not torch.equal(mine[name], value)]
    assert not changed, f"{len(changed)} tensors differ: {changed[:5]}"


def _tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
