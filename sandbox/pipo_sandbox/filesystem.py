"""File system of a program: a root of read-only folders and two empty ones of its own; Landlock rules."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from . import kernel

# Inside of a sandbox with a mount namespace. Not /tmp: an interpreter may be installed below that.
WORK = "/sandbox"
TEMPORARY = "/tmp"
_NEW_ROOT = "/tmp"  # outside: any folder will do to build on
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"stdin": "self/fd/0", "stdout": "self/fd/1", "stderr": "self/fd/2", "fd": "self/fd"}

# Rights on files as Landlock numbers them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_DEVICES = 1 << 6 | 1 << 11
_RIGHTS_ON_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14


def enter_small_root(paths: Sequence[str], hidden: Sequence[str]) -> None:
    """Leave the file system for one that holds ``paths`` alone, read-only, with empty folders for ``hidden``.

    Needs a mount namespace of its own. The new root is a memory file system; it is laid over a
    folder of the old one, which nobody else sees.

    Raises:
        OSError: the system does not allow it.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    devices = [f"/dev/{name}" for name in _DEVICES]
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    real = [path for path in (*paths, *devices) if path not in links]
    # Opened first, because one of them may lie in the folder that the new root covers.
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*real, "/proc")}
    folders = {path for path in opened if os.path.isdir(path)}
    kernel.mount("tmpfs", _NEW_ROOT, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    _make_links(links, _NEW_ROOT)
    for path, descriptor in opened.items():
        _make_target(_NEW_ROOT + path, path in folders)
        if path != "/proc":
            _bind(descriptor, _NEW_ROOT + path)
    for name, target in _LINKS.items():
        os.symlink(f"/proc/{target}", f"{_NEW_ROOT}/dev/{name}")
    for path in hidden:
        kernel.mount("tmpfs", _NEW_ROOT + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k")
    for folder in (WORK, TEMPORARY):
        os.makedirs(_NEW_ROOT + folder, exist_ok=True)
    kernel.make_read_only(_NEW_ROOT)
    # Writable, for each sandbox has to write its user's number there; it then covers it with its own.
    _bind(opened["/proc"], f"{_NEW_ROOT}/proc")
    for descriptor in opened.values():
        os.close(descriptor)
    kernel.enter_root(_NEW_ROOT)


def _make_links(links: dict[str, str], root: str) -> None:
    for path, target in links.items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)


def _bind(descriptor: int, path: str) -> None:
    kernel.mount(f"/proc/self/fd/{descriptor}", path, None, kernel.MS_BIND | kernel.MS_REC)


def _make_target(path: str, is_folder: bool) -> None:
    os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
    if not is_folder:
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))


def mount_private(paths: Sequence[str], user: int, group: int, disk_mb: int) -> None:
    """Mount what each sandbox has for itself: its processes under /proc, empty ``WORK`` and ``TEMPORARY``.

    Those of ``paths`` that lie below ``TEMPORARY``, as an environment for a trial may, stay in sight.

    Raises:
        OSError: the system does not allow it.
    """
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    options = f"size={disk_mb}m,nr_inodes=4096,mode=700,uid={user},gid={group}"
    kernel.mount("tmpfs", WORK, "tmpfs", quiet, options)
    below = _below_temporary(paths)
    links = {path: os.readlink(path) for path in below if os.path.islink(path)}
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in below if path not in links}
    folders = {path for path in opened if os.path.isdir(path)}
    kernel.mount("tmpfs", TEMPORARY, "tmpfs", quiet, options.replace("mode=700", "mode=1777"))
    _make_links(links, "")
    for path, descriptor in opened.items():
        _make_target(path, path in folders)
        _bind(descriptor, path)
        os.close(descriptor)
    try:
        kernel.mount("proc", "/proc", "proc", quiet | kernel.MS_NOEXEC | kernel.MS_RDONLY)
    except OSError:  # containers may hide parts of /proc, and then a new one is refused: have none
        kernel.mount("tmpfs", "/proc", "tmpfs", quiet | kernel.MS_RDONLY, "size=4k")


def private_folders(paths: Sequence[str]) -> dict[str, frozenset[str]]:
    """The folders that ``mount_private`` makes, each with the names that are in it from the start."""
    names = (path.split("/")[2] for path in _below_temporary(paths))
    return {WORK: frozenset(), TEMPORARY: frozenset(names)}


def _below_temporary(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if path.startswith(f"{TEMPORARY}/")]


def clear(folder: str, keep: Collection[str]) -> None:
    """Remove what a program has left in a folder of its own, except the names in ``keep``.

    What lies in a folder is moved up before that is removed: a program can nest them deeper than a path
    reaches.

    Raises:
        OSError: something cannot be removed.
    """
    waiting = [os.path.join(folder, name) for name in os.listdir(folder) if name not in keep]
    moved = 0
    while waiting:
        path = waiting.pop()
        if not _open_up(path):
            os.unlink(path)
            continue
        for name in os.listdir(path):
            while os.path.lexists(target := os.path.join(folder, f"removed-{moved}")):
                moved += 1
            _open_up(os.path.join(path, name))
            os.rename(os.path.join(path, name), target)
            waiting.append(target)
        os.rmdir(path)


def _open_up(path: str) -> bool:
    """Give back the rights that a program has taken from itself; whether the path is a folder."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    os.chmod(path, 0o700)
    return True


@dataclass(frozen=True, kw_only=True)
class Readable:
    """What may be read where there is no mount namespace."""

    whole: tuple[str, ...]
    """Files, and folders with all that lies below them."""
    names: tuple[str, ...]
    """Folders of which only the names may be read, for something below them is hidden."""

    @staticmethod
    def around(paths: Sequence[str], hidden: Sequence[str]) -> Readable:
        """All of ``paths`` but what is ``hidden`` below them."""
        kept_back = {os.path.realpath(path) for path in hidden}
        whole, names, waiting = [], [], list(paths)
        while waiting:
            path = waiting.pop()
            real = os.path.realpath(path)
            if any(folder.startswith(real + "/") for folder in kept_back):
                names.append(path)
                waiting.extend(os.path.join(path, name) for name in os.listdir(path))
            elif real not in kept_back:
                whole.append(path)
        return Readable(whole=tuple(whole), names=tuple(names))


def restrict_files(readable: Readable, work: str) -> None:
    """Without a mount namespace: allow reading ``readable`` and writing below ``work``, by Landlock.

    From version 4 on TCP is refused too, from version 6 on signals to processes outside.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = kernel.landlock_version()
    known = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    everything = (1 << known) - 1
    read = _READ_FILE | _READ_FOLDER
    rules = [(path, (read if os.path.isdir(path) else _READ_FILE) & everything) for path in readable.whole]
    rules += [(path, _READ_FOLDER) for path in readable.names]
    for name in _DEVICES:
        rules.append((f"/dev/{name}", (_READ_FILE | _WRITE_FILE) & _RIGHTS_ON_A_FILE))
    rules.append((work, everything & ~_MAKE_DEVICES))
    kernel.landlock(everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0, rules)
