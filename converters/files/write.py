"""Write files completely or not at all: a temporary name, holes for zeros, then the real name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import AdapterError

if sys.platform == "win32":

    def _lock(descriptor: int, wait: bool) -> None:
        """Do nothing: on Windows an open file can't be removed."""

else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> None:
        """Lock a file for this run.  Raises BlockingIOError if another run has it, OSError without support."""
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


Placed = tuple[int, bytes]
"""Bytes and their offsets; everything else is zero."""

_TEMPORARY = re.compile(r"\.omnix-\d+-[0-9a-f]{16}\.part")
_ABANDONED = 24 * 3600.0
_OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def write_file(path: Path, size: int, pieces: Iterable[Placed], force: bool, durable: bool = False) -> None:
    """Write a file of `size` bytes from pieces; it gets its name only when it is complete.

    `durable` also waits until the disk has stored it, so that it survives a power cut. This takes longer than
    everything else, so files that can be made again don't wait. Raises AdapterError if the file exists and not `force`,
    OSError (with the path) if it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_of(path), _temporary(path.parent) as temporary:
        for position, data in pieces:
            _write_at(temporary.descriptor, position, data)
        os.ftruncate(temporary.descriptor, size)
        if durable:
            os.fsync(temporary.descriptor)
        os.close(os.dup(temporary.descriptor))  # network file systems report a full disk only now
        if sys.platform == "win32":
            temporary.close()  # Windows can't rename an open file
        _publish(temporary.path, path, force)


def write_bytes(path: Path, data: bytes, force: bool) -> None:
    """Write a complete file from memory, with the guarantees of `write_file`, and wait until the disk has stored it."""
    write_file(path, len(data), [(0, data)], force, durable=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a library that writes by name; if nothing goes wrong, it becomes the file's.

    Creates the folder. Raises OSError (with the path) if the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_of(path), _temporary(path.parent) as temporary:
        if sys.platform == "win32":
            temporary.close()  # no library can write to an open file there
        yield temporary.path
        temporary.path.replace(path)


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be created in a folder; the folder is created if necessary."""
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    code = errno.ENOTDIR if not place.is_dir() else 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    if code:
        raise OSError(code, os.strerror(code), str(place))


def exists(path: Path) -> AdapterError:
    """Return the error for a destination that already exists."""
    return AdapterError(f"{path}: file: expected no file of that name, got one; use --force to replace it.")


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Make errors name the requested file; the kernel names the temporary file, or none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _TEMPORARY.fullmatch(os.path.basename(error.filename)):
            raise  # the source's
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


class _Temporary:
    """An open temporary file next to the destination, locked so that other runs don't treat it as abandoned."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".omnix-{os.getpid()}-{os.urandom(8).hex()}.part"
        self.descriptor = os.open(self.path, _OPEN | os.O_CREAT | os.O_EXCL, 0o666)
        self._open = True

    def lock(self) -> bool:
        """Lock the file; False if another run had removed it before it was locked."""
        with contextlib.suppress(OSError):  # a file system without locks: then it is only safe for a day
            _lock(self.descriptor, wait=True)
        return sys.platform == "win32" or os.fstat(self.descriptor).st_nlink > 0

    def close(self) -> None:
        """Close the file, once."""
        if self._open:
            self._open = False
            os.close(self.descriptor)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[_Temporary]:
    """Open a temporary file, and remove its name at the end; by then the result has its own name, or there is none."""
    temporary = _Temporary(folder)
    while not temporary.lock():
        temporary.close()
        temporary = _Temporary(folder)
    try:
        yield temporary
    finally:
        if sys.platform == "win32":
            temporary.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary.path)
        temporary.close()


def _write_at(descriptor: int, position: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, view, position)
        else:
            os.lseek(descriptor, position, os.SEEK_SET)  # Windows
            count = os.write(descriptor, view)
        view, position = view[count:], position + count


def _publish(temporary: Path, path: Path, force: bool) -> None:
    """Give a finished file its name; without `force`, the result of another run is never replaced."""
    if force:
        os.replace(temporary, path)
        return
    try:
        if sys.platform == "win32":
            os.rename(temporary, path)  # fails if the name exists
        else:
            os.link(temporary, path)
    except FileExistsError:
        raise exists(path) from None
    except OSError as error:
        # File systems without hard links (FAT, some network shares): the check and the rename are two steps there.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        if path.exists():
            raise exists(path) from None
        os.replace(temporary, path)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of ended runs from a folder, if it exists; the files of running ones are locked.

    Functions that write into a folder call this first, even if they then refuse to write.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for path in found:
        with contextlib.suppress(OSError):  # already removed, or another user's
            _remove_if_dead(path)


def _remove_if_dead(path: str) -> None:
    if sys.platform == "win32":
        # An open file can't be removed there; but one that is about to be renamed is closed for a moment.
        if time.time() - os.stat(path).st_mtime > 60:
            os.unlink(path)
        return
    descriptor = os.open(path, _OPEN)
    try:
        _lock(descriptor, wait=False)
        os.unlink(path)
    except BlockingIOError:
        return
    except OSError:
        if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED:
            os.unlink(path)
    finally:
        os.close(descriptor)
