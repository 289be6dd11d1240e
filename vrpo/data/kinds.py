"""Contents of each stage's files; a stage refuses the files of other stages before reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.data.shards import StoredArrays


class Kind(NamedTuple):
    """The arrays and attributes that readers rely on."""

    arrays: Mapping[str, tuple[int, tuple[str, ...]]]
    """Name -> number of axes, types of the elements."""
    attributes: tuple[str, ...]


PICTURES = {"images": (4, ("uint8",)), "labels": (1, ("int64",))}
SAMPLES = Kind(PICTURES, ())
IMAGES = Kind(PICTURES, ("fingerprint", "resolution", "classes"))
MOMENTS = (4, ("float32", "float16"))
LATENTS = Kind({"mean": MOMENTS, "std": MOMENTS, "labels": (1, ("int64",))}, ("images",))
FEATURES = Kind({"tokens": (3, ("int8", "uint8", "float16"))}, ("images",))


def require_kind(arrays: StoredArrays, kind: Kind) -> None:
    """Check that `arrays` are of a kind.

    Raises:
        UserError: an array or attribute is missing or of another form; names it.
    """
    for name, (axes, types) in kind.arrays.items():
        require_form(arrays, name, axes, types)
    if "images" in kind.arrays:
        shape = arrays.shape("images")
        if shape[1] != shape[2] or shape[3] != 3:
            raise UserError(
                f"{arrays.path}: its `images` are {list(shape)}, not [N, side, side, 3]; "
                "give the output of the images stage"
            )
    for name in kind.attributes:
        arrays.attributes[name]


def require_form(
    arrays: StoredArrays, name: str, axes: int | tuple[int, ...], types: tuple[str, ...]
) -> None:
    """Check that the array `name` exists, with so many axes (or this shape) and one of `types`.

    Raises:
        UserError: it does not.
    """
    shape, dtype = arrays.shape(name), arrays.dtype(name)
    exact = isinstance(axes, tuple)
    fits = shape == axes if exact else len(shape) == axes
    if not fits or dtype.name not in types or not dtype.isnative:
        form = f"of shape {list(axes)}" if exact else f"with {axes} axes"
        raise UserError(
            f"{arrays.path}: its array `{name}` is {dtype} {list(shape)}, "
            f"not {' or '.join(types)} {form}; give the output of the stage before"
        )
