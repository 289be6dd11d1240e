"""Writing that survives being killed: temporary names, renames, locks and hashes."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from vrpo.errors import UserError
from vrpo.holders import described, holder_of_this_process, is_gone, read_holder

log = logging.getLogger(__name__)
WITHOUT_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""Errors of file systems without locks: ENOSYS of Lustre, ENOLCK of NFS without lock service."""


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete: hidden, in the same folder."""
    return path.with_name(f".{path.name}.partial")


def commit(path: Path) -> None:
    """Flush `partial_path(path)` to disk and rename it to `path`, which is then whole."""
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
    """Yield a temporary path to write to; rename it to `path` at the end, or remove it on an error.

    The file gets the mode of any new file (umask, default ACLs); safetensors alone would set 0600.

    Raises:
        UserError: the disk is full, the folder is not writable, or `path` is no regular file.
    """
    path = Path(path)
    with clear_os_errors(path):
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is there and not a regular file; give another name")
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
    """Turn errors of writing `path` (full disk, permissions, impossible name) into `UserError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            reason = (
                "the disk is full; free space (or set `results` to another disk) "
                "and start again, finished work is kept"
            )
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            reason = (
                "cannot be written, its name or a folder above it is taken or too long "
                f"({error.strerror}); give another name"
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = (
                f"cannot be written ({error.strerror}); "
                "make the folder writable or set `results` to another one"
            )
        else:
            raise
        raise UserError(f"{path}: {reason}") from error


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_text_if_changed(path: Path | str, text: str) -> bool:
    """Write `text` unless `path` already holds it; returns whether it was written."""
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


def existing_folder(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists."""
    place = folder.resolve()
    return next(parent for parent in [place, *place.parents] if parent.is_dir())


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `UserError` unless the disk that holds `folder` has `n_bytes` free."""
    free = shutil.disk_usage(existing_folder(folder)).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {what} needs {n_bytes:,} bytes but the disk has {free:,} free; "
            "free space or set `results` to another disk"
        )


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a `FileLock` on `path`, so that `what` runs only once; the file names its holder.

    The file is empty again after the release; a killed process leaves its record.

    Raises:
        UserError: another process holds it (named by host, pid and job), or the folder cannot be
            written.
    """
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(path)
        except LockedError as error:
            holder = error.holder or described(read_holder(path))
            raise UserError(
                f"{path}: {what} is already running ({holder}); {error.remedy}"
            ) from None
    try:
        with clear_os_errors(path):
            path.write_text(f"{json.dumps(holder_of_this_process())}\n", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            os.truncate(path, 0)
        lock.release()


class LockedError(Exception):
    """Another process holds a lock."""

    def __init__(self, holder: str = "", remedy: str = "wait for it or end it first") -> None:
        """`holder`: host, pid and job, where known; `remedy`: what the user can do."""
        super().__init__(holder)
        self.holder, self.remedy = holder, remedy


class FileLock:
    """Exclusive lock on a file, from construction until `release` or the end of the process.

    The kernel's lock (`flock`) ends with its process. Some network file systems have none: there
    a warning is logged, and a file `<name>.held` beside the locked one names the holder. A file
    that a killed process left is removed where the process is known to be gone: its own host
    knows, and SLURM knows the jobs of all hosts. Elsewhere the error says which file to delete.

    Raises:
        LockedError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._held, self._pid = path, path.with_name(f"{path.name}.held"), os.getpid()
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._by_name = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise LockedError from None
        except OSError as error:
            self.release()
            if error.errno not in WITHOUT_FLOCK:
                raise
            _warn_of_missing_locks(*file_system(path), os.strerror(error.errno))
            self._take_name()

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._by_name and self._pid == os.getpid():  # not in a forked child
            self._held.unlink(missing_ok=True)
            self._by_name = False

    def keep_after_exec(self) -> None:
        """Let the program that this process becomes by `exec` hold the lock."""
        if self._file is not None:
            os.set_inheritable(self._file, True)

    def _take_name(self) -> None:
        while True:
            try:
                file = os.open(self._held, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                self._remove_stale()
                continue
            self._by_name = True
            atexit.register(self.release)
            with os.fdopen(file, "w", encoding="utf-8") as record:
                json.dump(holder_of_this_process(), record)
            return

    def _remove_stale(self) -> None:
        """Remove the file of a holder that is gone; of several that try, one removes it."""
        holder = read_holder(self._held)
        if holder is None:
            return
        if not is_gone(holder):
            raise LockedError(
                described(holder),
                "wait for it or end it first; "
                f"this file system has no locks, so if it no longer runs, delete {self._held}",
            )
        aside = self._held.with_name(f"{self._held.name}.{socket.gethostname()}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self._held.rename(aside)
            if read_holder(aside) == holder:
                aside.unlink()
            else:  # another process was faster, and holds it now
                aside.rename(self._held)


def file_system(path: Path) -> tuple[str, str]:
    """Mount point and type (such as `nfs4` or `lustre`) of the file system that holds `path`."""
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        mount = fields[4].encode().decode("unicode_escape")
        kinds[mount] = fields[fields.index("-") + 1]
    folders = map(str, [path.resolve(), *path.resolve().parents])
    mount = next((folder for folder in folders if folder in kinds), "/")
    return mount, kinds.get(mount, "unknown")


@functools.cache
def _warn_of_missing_locks(mount: str, kind: str, reason: str) -> None:
    log.warning(
        "%s: this file system (%s) has no file locks (%s); "
        "a file beside each locked one says who holds it",
        mount,
        kind,
        reason,
    )
