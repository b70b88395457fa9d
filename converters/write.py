"""Write files that are whole or not there: a temporary name first, holes for zeros, one rename at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from .errors import AdapterError

Piece = tuple[int, bytes]
"""Bytes and where they go; what no piece covers is zero."""

_TEMPORARY = ".omnix-{pid}-"
_STALE = re.compile(r"\.omnix-(\d+)-.*\.part")


def write_file(path: Path, size: int, pieces: Iterable[Piece], force: bool) -> None:
    """Write a file of `size` bytes from pieces, under its name only once it is whole.

    Raises AdapterError if it exists and not `force`, OSError (with the path) if the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    with _temporary(path) as file:
        for position, data in pieces:
            file.seek(position)
            file.write(data)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
        if sys.platform != "win32":
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        file.close()
        _publish(Path(file.name), path, force)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`, and remove it unless it was renamed."""
    prefix = _TEMPORARY.format(pid=os.getpid())
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, suffix=".part", delete=False)  # noqa: SIM115
    try:
        with file:
            yield file
    except OSError as error:
        # The kernel names the temporary file, or none at all; the user asked for this one.
        raise type(error)(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.name)


def _publish(temporary: Path, path: Path, force: bool) -> None:
    """Give a finished file its name; without `force` another process's result is never replaced."""
    if force:
        os.replace(temporary, path)
        return
    try:
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


def exists(path: Path) -> AdapterError:
    """Return the error of a destination that is already there."""
    return AdapterError(f"{path}: file: expected no file there yet, got one; use --force to replace it.")


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of processes that are gone."""
    for entry in os.scandir(folder):
        match = _STALE.fullmatch(entry.name)
        if match and not _alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _alive(pid: int) -> bool:
    """Tell whether a process runs; on Windows, where that can't be asked, an open file can't be removed anyway."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, data: bytes, force: bool) -> None:
    """Write a whole file from memory, with the same promises as `write_file`."""
    write_file(path, len(data), [(0, data)], force)
