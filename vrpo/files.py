"""Writing that survives being killed: temporary names, renames, locks and hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from vrpo.errors import UserError


def partial_path(path: Path) -> Path:
    """Where `path` is written before it is complete: hidden, beside it, so that the rename stays on one file system."""
    return path.with_name(f".{path.name}.partial")


def commit(path: Path) -> None:
    """Flush `partial_path(path)` to disk and rename it to `path`; from here on it is whole or absent."""
    partial = partial_path(path)
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` at the end, remove it when the body raises.

    The file gets the mode of any new file (umask, default ACLs), whatever its writer set: safetensors makes its files 0600.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        mode = _mode_of_new(partial)
        try:
            yield partial
            if stat.S_IMODE(partial.stat().st_mode) != mode:
                partial.chmod(mode)
            commit(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _mode_of_new(path: Path) -> int:
    """Permissions that a file created at `path` gets; what was there is removed."""
    path.unlink(missing_ok=True)
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission met while writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise UserError(f"{path}: the disk is full; free space (or set `results` to another disk) and start again, finished work is kept") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path}: cannot be written ({error.strerror}); make the folder writable or set `results` to another one") from error
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_text_if_changed(path: Path | str, text: str) -> bool:
    """Write `text` unless `path` already holds it, so that its modification time moves only with its content."""
    path = Path(path)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hash(content: bytes) -> str:
    """The first 16 hex digits of a content's SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `UserError` unless the disk that holds `folder` has `n_bytes` free."""
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise UserError(f"{folder}: {what} needs {n_bytes:,} bytes but the disk has {free:,} free; free space or set `results` to another disk")


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock on `path`, so that `what` is not done twice at once.

    The kernel drops the lock with the process, so none is ever stale; the file names its holder.

    Raises:
        UserError: another process holds it; the message names its host, pid and job.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(f"{path}: {what} is already running ({file.read().strip()}); wait for it or end it first") from error
        file.truncate(0)
        job = os.environ.get("SLURM_JOB_ID", "none")
        file.write(f"host {socket.gethostname()}, pid {os.getpid()}, SLURM job {job}\n")
        file.flush()
        yield
