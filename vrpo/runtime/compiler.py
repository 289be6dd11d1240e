"""Check that `torch.compile` works on this machine, before anything long begins."""

from __future__ import annotations

import random
import re

import torch
from torch import Tensor

from vrpo.errors import UserError

CAUSES = {
    r"No working C\+\+ compiler|Failed to find C(\+\+)? compiler": (
        "there is no working C++ compiler",
        "install one (g++; CXX and CC may name another)",
    ),
    r"Python\.h": ("the headers of Python are missing", "install them (Debian: python3-dev)"),
    r"triton installation|No module named 'triton'": (
        "Triton is missing",
        "install the triton of this torch",
    ),
}
"""Pattern of an error: its cause and remedy."""


def require_compiler(device: torch.device, option: str, otherwise: str = "set it to false") -> None:
    """Check that code can be compiled for `device`.

    That takes a compiler, headers, Triton on a GPU, and a writable cache.

    Args:
        device: where it will run.
        option: what asks for it.
        otherwise: how to do without.

    Raises:
        UserError: it cannot.
    """
    constant = random.random()  # code that no cache holds, so that it is compiled now

    def probe(x: Tensor) -> Tensor:
        return (x.sin() + constant).sum(dim=1)

    try:
        torch.compile(probe, fullgraph=True, dynamic=False)(torch.ones(8, 8, device=device)).cpu()
    except Exception as error:
        cause, remedy = explained(error)
        raise UserError(
            f"{option}: torch.compile does not work on this machine, {cause}; "
            f"{remedy}, or {otherwise}"
        ) from error


def explained(error: BaseException) -> tuple[str, str]:
    """The cause of a failed compilation, and what the user can do about it."""
    error = getattr(error, "inner_exception", error)
    text = f"{error} {error.__cause__ or ''}"
    for pattern, explanation in CAUSES.items():
        if re.search(pattern, text):
            return explanation
    if isinstance(error, OSError):
        remedy = "name a folder that can be in TORCHINDUCTOR_CACHE_DIR"
        return f"its cache cannot be written ({error})", remedy
    lines = text.splitlines() or [""]
    first = next((line for line in lines if re.search(r"\berror: ", line)), lines[0])
    return f"{type(error).__name__}: {' '.join(first.split())[:200]}", "repair the compiler"
