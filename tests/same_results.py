"""Whether two results folders hold the same numbers: `python -m tests.same_results A B`.

Compares the tensors of all networks, the arrays of images, latents, features and samples, and the
collected tables; hashes in these follow from file formats and are left out. It shows that a change
of the code changed no number. Exit status 1 if something differs.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pandas as pd
from safetensors import safe_open

TABLES = ("metrics.csv", "training.csv", "representation.csv", "diagnostics.csv")


def tensors(path: Path) -> dict[str, str]:
    """{name: SHA-256} of a network's tensors."""
    with safe_open(path, "np") as file:
        names = file.keys()
        return {name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() for name in names}


def arrays(path: Path) -> dict[str, str]:
    """{name: SHA-256} of the arrays of an HDF5 file."""
    with h5py.File(path) as file:
        names = [name for name in file if name != "crc32"]
        return {name: hashlib.sha256(file[name][...].tobytes()).hexdigest() for name in names}


def different(a: Path, b: Path, pattern: str, read: Callable[[Path], dict[str, str]]) -> list[Path]:
    """Files of `a` whose content `b` lacks or has otherwise."""
    files = sorted(path.relative_to(a) for path in a.rglob(pattern) if "state" not in path.parts)
    changed = [f for f in files if not (b / f).is_file() or read(a / f) != read(b / f)]
    print(f"{pattern}: {len(files)} files, {len(changed)} different")
    return changed


def different_tables(a: Path, b: Path) -> list[Path]:
    """Collected tables that one lacks, or whose common columns differ."""
    changed = []
    for name in TABLES:
        path = Path("collected", name)
        if not (a / path).is_file() or not (b / path).is_file():
            changed.append(path)
            continue
        first, second = (pd.read_csv(folder / path) for folder in (a, b))
        columns = [name for name in first if name in second and not name.endswith("sha256")]
        if not first[columns].equals(second[columns]):
            changed.append(path)
    print(f"tables: {len(TABLES)} files, {len(changed)} different")
    return changed


def same(a: Path, b: Path) -> bool:
    """Whether all numbers of `a` are in `b`; prints what differs."""
    changed = different(a, b, "*.safetensors", tensors) + different(a, b, "*.h5", arrays)
    changed += different_tables(a, b)
    print(*changed, sep="\n")
    return not changed


def main() -> None:
    """Compare the two folders that the command line names."""
    sys.exit(not same(*map(Path, sys.argv[1:3])))


if __name__ == "__main__":
    main()
