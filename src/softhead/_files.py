"""Writing files so that a failure never costs the old one."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any, BinaryIO, Literal, TextIO, overload


@overload
def atomic_output(path: str | os.PathLike[str], mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_output(path: str | os.PathLike[str], mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...


@contextmanager
def atomic_output(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[Any]:
    """Open a file whose contents appear at `path` all at once, or not at all.

    What is written goes to a hidden temporary file in the same folder. At the end of the ``with`` block that file is
    flushed to the disk and renamed to `path`. An exception inside the block, KeyboardInterrupt included, removes the
    temporary file and leaves the old file as it was, byte for byte. A killed process or a power failure leaves the
    old file too, but the temporary one, ``.NAME.*.tmp``, may stay behind.

    Parameters
    ----------
    path : str or path-like
        The file to write. A symbolic link is followed: the file it points to is replaced. An existing file keeps its
        permissions; a new one gets those that ``open`` would give. A device or a pipe, such as ``/dev/stdout``, has
        no old contents to keep and is written directly.
    mode : {"wb", "w"}
        "wb" for bytes; "w" for UTF-8 text, line ends written as they are.

    Yields
    ------
    file
        The file to write into.

    Raises
    ------
    OSError
        The folder is missing or not writable, `path` is a folder or a write-protected file, the disk is full, and so
        on. The error names `path`, never the temporary file.
    ValueError
        If `mode` is neither "wb" nor "w".

    References
    ----------
    POSIX.1-2017, ``rename()``: at every moment the name refers to the old file or to the new one.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "greeting.txt")
    ...     with atomic_output(path, "w") as file:
    ...         _ = file.write("hello")
    ...         print(path.exists())
    ...     print(path.exists(), path.read_text())
    False
    True hello
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode must be 'wb' or 'w', got {mode!r}")
    path = os.fsdecode(path)
    old = _stat(path)
    if old is not None and not stat.S_ISREG(old.st_mode):
        with _naming(path), _open(path, mode) as file:
            yield file
        return

    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    # A part of the name is enough to recognise the file by, and keeps within the file system's limit on names.
    temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.tmp")
    permissions = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    with _naming(path, instead_of=temporary):
        try:
            with _open(temporary, mode.replace("w", "x"), permissions) as file:
                if old is not None:
                    os.chmod(temporary, permissions)  # exactly: the umask had its say when the file was made
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    _sync_folder(folder)


@contextmanager
def _naming(path: str, instead_of: str | None = None) -> Iterator[None]:
    """Make operating system errors about no file, or about `instead_of`, errors about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, instead_of):
            raise
        winerror = getattr(error, "winerror", None)  # Windows derives errno from it; elsewhere it is ignored
        raise OSError(error.errno, error.strerror, path, winerror) from error


def _stat(path: str) -> os.stat_result | None:
    """Status of the file that `path` leads to, None if there is none; OSError where ``open(path, "w")`` raises it."""
    if os.path.isdir(path) or not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        open(path, "r+b").close()  # a write-protected file refuses this; any other is left as it is
    return status


def _open(path: str, mode: str, permissions: int = 0o666) -> IO[Any]:
    """``open`` with the permissions of a file that it makes (less the umask); text is UTF-8, line ends kept."""
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    return open(
        path, mode, encoding=encoding, newline=newline, opener=lambda name, flags: os.open(name, flags, permissions)
    )


def _sync_folder(folder: str) -> None:
    """Ask that the renaming itself reach the disk, where the platform can; by now nothing is left to undo."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
