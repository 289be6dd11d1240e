"""Contents of each stage's files, checked before a stage reads them; files of other stages are
refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.data.shards import StoredArrays


class Kind(NamedTuple):
    """The arrays and attributes that readers rely on."""

    arrays: Mapping[
        str, tuple[int, tuple[str, ...]]
    ]  # name -> number of axes, types of the elements
    attributes: tuple[str, ...]


PICTURES = {"images": (4, ("uint8",)), "labels": (1, ("int64",))}
SAMPLES = Kind(PICTURES, ())
IMAGES = Kind(PICTURES, ("fingerprint", "resolution", "classes"))
LATENTS = Kind(
    {
        "mean": (4, ("float32", "float16")),
        "std": (4, ("float32", "float16")),
        "labels": (1, ("int64",)),
    },
    ("images",),
)
FEATURES = Kind({"tokens": (3, ("int8", "uint8", "float16"))}, ("images",))


def require_kind(arrays: StoredArrays, kind: Kind) -> None:
    """See that `arrays` are of a kind.

    Raises:
        UserError: an array or attribute is missing or of another form; names it.
    """
    for name, (axes, types) in kind.arrays.items():
        require_form(arrays, name, axes, types)
    if "images" in kind.arrays:
        _, height, width, channels = arrays.shape("images")
        if height != width or channels != 3:
            raise UserError(
                f"{arrays.path}: its `images` are {list(arrays.shape('images'))}, not [N, side, side, 3]; give the output of the images stage"
            )
    for name in kind.attributes:
        arrays.attributes[name]


def require_form(
    arrays: StoredArrays, name: str, axes: int | tuple[int, ...], types: tuple[str, ...]
) -> None:
    """See that the array `name` is there, has so many axes (or exactly this shape) and elements of one of these types.

    Raises:
        UserError: it does not.
    """
    shape, dtype = arrays.shape(name), arrays.dtype(name)
    if (
        dtype.name not in types
        or not dtype.isnative
        or (shape != axes if isinstance(axes, tuple) else len(shape) != axes)
    ):
        wanted = f"of shape {list(axes)}" if isinstance(axes, tuple) else f"with {axes} axes"
        raise UserError(
            f"{arrays.path}: its array `{name}` is {dtype} {list(shape)}, not {' or '.join(types)} {wanted}; give the output of the stage before"
        )
