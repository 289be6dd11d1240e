"""Images in parquet files of Hugging Face's `datasets`: columns of encoded images and labels."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vrpo.data.sources.base import EncodedSource, reason_of
from vrpo.data.sources.classes import ClassIndex, names_of_labels
from vrpo.data.sources.listing import containers, open_file, stamp
from vrpo.data.sources.splits import training_files
from vrpo.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")


class ParquetSource(EncodedSource):
    """All `*.parquet` of a folder (or one file), in the order of their names.

    The columns are `image` (struct of `bytes` and `path`) and `label`. Of several splits
    (`train-*.parquet`, `validation-*.parquet`) only the training split is used. Rows are read by
    row group, of which each process keeps the last. Class names are those of the files' own
    description, if there is one.

    Raises:
        UserError: pyarrow is not installed, there are no files, one is damaged or has other
            columns, or a label is missing or no integer.
    """

    def __init__(self, root: Path | str, resolution: int, index: ClassIndex | None = None) -> None:
        super().__init__("parquet", root, resolution)
        parquet = _pyarrow_parquet()
        self.stamps[str(self.root)] = stamp(self.root)
        files = training_files(containers(self.root, ".parquet"), self.root)
        self._files = [str(path) for path in files]
        self.stamps |= {path: stamp(path) for path in self._files}
        if not self._files:
            raise UserError(
                f"data.root: {self.root} holds no *.parquet; "
                "set `data.root` to the folder of the training split's files"
            )
        labels: list[np.ndarray] = []
        groups: list[tuple[int, int, int]] = []
        names: list[str] | None = None
        for number, path in enumerate(self._files):
            try:
                with open_file(Path(path)) as opened, parquet.ParquetFile(opened) as file:
                    self._image, label = _columns(path, file.schema_arrow)
                    labels.append(_labels(path, label, file.read(columns=[label]).column(0)))
                    for group in range(file.metadata.num_row_groups):
                        groups.append((number, group, file.metadata.row_group(group).num_rows))
                    names = names or _names(file.schema_arrow.metadata, label)
            except UserError:
                raise
            except Exception as error:  # of damaged files nearly anything is raised
                raise UserError(
                    f"{path}: not a readable parquet file of images ({reason_of(error)}); "
                    "fetch it again"
                ) from error
        self.labels = np.concatenate(labels)
        self._groups = np.array(groups, dtype=np.int64)  # [G, 3]: file, row group, rows
        self._ends = np.cumsum(self._groups[:, 2])
        if index is None and names:
            index = ClassIndex(names, names)
        self.classes = names_of_labels(self.labels, index, str(self.root))
        self._last: tuple[int, list[dict[str, Any] | None]] = (-1, [])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": (-1, [])}

    def open(self, index: int) -> IO[bytes]:
        """The bytes of image `index`."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        if self._last[0] != group:
            number, within, _ = self._groups[group]
            with _pyarrow_parquet().ParquetFile(self._files[number]) as file:
                rows = file.read_row_group(int(within), columns=[self._image])
            self._last = (group, rows.column(0).to_pylist())
        row = self._last[1][index - int(self._ends[group] - self._groups[group, 2])]
        if not row or not row.get("bytes"):
            raise OSError("the row holds no bytes of an image")
        return io.BytesIO(row["bytes"])

    def name_of(self, index: int) -> str:
        """File and row of image `index`."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        number = int(self._groups[group, 0])
        first = int(self._groups[self._groups[:, 0] < number, 2].sum())
        return f"{self._files[number]} row {index - first}"

    def content(self) -> str:
        """Hash of the files' names and sizes, and of the labels."""
        lines = "".join(f"{Path(path).name}\0{Path(path).stat().st_size}\n" for path in self._files)
        return hashlib.sha256(lines.encode() + self.labels.tobytes()).hexdigest()


def _pyarrow_parquet() -> pyarrow.parquet:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "data.source: `parquet` needs pyarrow, which is not installed; "
            "install it (`pip install pyarrow`, or vrpo's extra `parquet`)"
        ) from error
    return pyarrow.parquet


def _columns(path: str, schema: Any) -> tuple[str, str]:
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise UserError(
            f"{path}: has the columns {', '.join(schema.names)}; "
            "images are read from `image` (bytes, path) and labels from `label`"
        )
    from pyarrow import types

    kind = schema.field(image).type
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise UserError(
            f"{path}: column `{image}` holds values of type {kind}; images are read from "
            "structs of `bytes` and `path`, which Hugging Face's `datasets` writes"
        )
    return image, label


def _labels(path: str, name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of labels as int64 `[N]`."""
    from pyarrow import ArrowInvalid, int64, types

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise UserError(
            f"{path}: row {row} has no label, {column.null_count:,} rows in all; "
            f"write their labels into column `{name}`, or leave them out"
        )
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not types.is_integer(kind):
        held = "text" if "string" in str(kind) else f"values of type {kind}"
        raise UserError(
            f"{path}: column `{name}` holds {held}; "
            "write integers in their place, the numbers of the classes from 0 up"
        )
    try:
        return column.cast(int64()).to_numpy()
    except ArrowInvalid as error:
        raise UserError(
            f"{path}: column `{name}` holds a number of no class ({reason_of(error)}); "
            "write the numbers of the classes from 0 up"
        ) from error


def _names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """Class names in the description that `datasets` leaves in its files."""
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
