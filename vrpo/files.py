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
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrpo.errors import UserError

log = logging.getLogger(__name__)
WITHOUT_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""How file systems answer that have no locks: Lustre ENOSYS, NFS without its lock service ENOLCK."""


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
        UserError: the disk is full, the folder cannot be written, or `path` is a folder, a device or a pipe.
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
    """Turn a full disk, a missing permission or an impossible name met while writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise UserError(
                f"{path}: the disk is full; free space (or set `results` to another disk) and start again, finished work is kept"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise UserError(
                f"{path}: cannot be written, its name or a folder above it is taken or too long ({error.strerror}); give another name"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); make the folder writable or set `results` to another one"
            ) from error
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
        raise UserError(
            f"{folder}: {what} needs {n_bytes:,} bytes but the disk has {free:,} free; free space or set `results` to another disk"
        )


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a `FileLock` on `path`, so that `what` is not done twice at once; the file names its holder.

    Raises:
        UserError: another process holds it (the message names its host, pid and job), or the folder cannot be written.
    """
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(path)
        except LockedError as error:
            raise UserError(
                f"{path}: {what} is already running ({error.holder or path.read_text(encoding='utf-8').strip()}); {error.remedy}"
            ) from None
    try:
        with clear_os_errors(path):
            path.write_text(f"{_described(_holder())}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


class LockedError(Exception):
    """Another process holds a lock."""

    def __init__(self, holder: str = "", remedy: str = "wait for it or end it first") -> None:
        """`holder`: host, pid and job, where known; `remedy`: what the user can do."""
        super().__init__(holder)
        self.holder, self.remedy = holder, remedy


class FileLock:
    """Exclusive lock on a file, held from its construction until `release` or the end of the process.

    It is the kernel's (`flock`), which goes with its process however that ends. Some network file systems have none: there a warning is logged, and a file
    `<name>.held` beside the locked one names the holder. One that a killed process left is removed where that process is known to be gone: its own host
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
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._by_name and self._pid == os.getpid():  # not in a forked child
            self._held.unlink(missing_ok=True)
            self._by_name = False

    def keep_after_exec(self) -> None:
        """Let the program that this process turns into hold the lock: the process is the same, and so is its descriptor."""
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
                json.dump(_holder(), record)
            return

    def _remove_stale(self) -> None:
        """Remove the file of a holder that is gone; of several that try, one removes it."""
        holder = _read_holder(self._held)
        if holder is None:
            return
        if not _is_gone(holder):
            raise LockedError(
                _described(holder),
                f"wait for it or end it first; this file system has no locks, so if it no longer runs, delete {self._held}",
            )
        aside = self._held.with_name(f"{self._held.name}.{socket.gethostname()}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # another one was faster
            self._held.rename(aside)
            if _read_holder(aside) == holder:
                aside.unlink()
            else:  # another one was faster, and holds it by now
                aside.rename(self._held)


def file_system(path: Path) -> tuple[str, str]:
    """Mount point and type (such as `nfs4` or `lustre`) of the file system that holds `path`."""
    mounts = [
        line.split()
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    ]
    kinds = {
        fields[4].encode().decode("unicode_escape"): fields[fields.index("-") + 1]
        for fields in mounts
    }
    mount = next(
        (
            str(folder)
            for folder in [path.resolve(), *path.resolve().parents]
            if str(folder) in kinds
        ),
        "/",
    )
    return mount, kinds.get(mount, "unknown")


@functools.cache
def _warn_of_missing_locks(mount: str, kind: str, reason: str) -> None:
    log.warning(
        "%s: this file system (%s) has no file locks (%s); a file beside each locked one says who holds it",
        mount,
        kind,
        reason,
    )


def _holder() -> dict[str, Any]:
    """Identity of this process, unique on all hosts and at all times."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "started": _start_of(os.getpid()),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
        "namespace": str(Path("/proc/self/ns/pid").readlink()),
    }


def _read_holder(path: Path) -> dict[str, Any] | None:
    """Who wrote a `.held` file; empty for one that is not whole, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _described(holder: dict[str, Any]) -> str:
    return (
        f"host {holder['host']}, pid {holder['pid']}, SLURM job {holder['job'] or 'none'}"
        if holder
        else "an unknown process"
    )


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder of a lock is known to run no more; False where that cannot be known from here."""
    if not holder:
        return False
    here = _holder()
    if (holder["boot"], holder["namespace"]) == (here["boot"], here["namespace"]):
        return _start_of(holder["pid"]) != holder["started"]
    return holder["job"] not in (None, here["job"]) and _slurm_job_is_over(holder["job"])


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None where there is none, or it only waits to be reaped."""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]


def _slurm_job_is_over(job: str) -> bool:
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Invalid job id" in answer.stderr if answer.returncode else not answer.stdout.strip()
