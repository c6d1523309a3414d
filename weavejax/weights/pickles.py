"""Recognising Python pickles by their content: opening one can run any code its maker wished."""

import pickletools
import stat
import zipfile
import zlib
from pathlib import Path

from weavejax.errors import UserError

SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".joblib", ".mar", ".pickle", ".pkl", ".pt", ".pt2", ".pth"}
    | {".pth.tar", ".t7", ".th"}
)
ZIP, TAR_MAGIC, NPY = b"PK\x03\x04", b"ustar", b"\x93NUMPY"
HEAD = 4096
MAX_MEMBERS = 10_000
ENOUGH = 16  # instructions in a row that are a pickle's, no accident


def refuse_pickle(path: str | Path) -> None:
    """Refuses a file that is a Python pickle, holds one, or is named like one.

    Recognised by content, whatever the name: pickles of every protocol, PyTorch's zip archives,
    its older bare and tar forms, and NumPy files (.npy, .npz) of Python objects. Only the first
    bytes and the table of contents are read; nothing is unpickled.

    Raises:
      UserError: it is one, and what to do; or it cannot be read.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return  # a folder of files, say; pipes would wait for ever
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    name = path.name.lower()
    if _is_pickle(head) or _holds_pickle(path, head) or name.endswith(tuple(SUFFIXES)):
        raise UserError(
            f"{path} is a Python pickle, which can run code when opened: convert it first with "
            "python -m weavejax.convert"
        )


def _is_pickle(head: bytes) -> bool:
    if _is_object_array(head):
        return True
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return True
    count = 0
    try:  # protocols 0 and 1 have no signature: read the instructions, without following them
        for count, (code, _, _) in enumerate(pickletools.genops(head), 1):
            if code.name == "STOP":
                return count > 1
    except Exception:  # genops raises what it likes on what is no pickle, or goes on after the head
        return count >= ENOUGH
    return False


def _is_object_array(head: bytes) -> bool:
    """An .npy whose header states a dtype with Python objects in it: '|O', or a field of it."""
    if not head.startswith(NPY):
        return False
    header = head[10:].split(b"\n")[0]
    described = header.partition(b"'descr':")[2].partition(b"'fortran_order'")[0]
    return b"O'" in described or b"O8'" in described or b"O4'" in described or not described


def _holds_pickle(path: Path, head: bytes) -> bool:
    if head[257:262] == TAR_MAGIC:
        # PyTorch before 0.1.10 wrote tar files; weights come in no other kind of tar.
        return True
    if not head.startswith(ZIP):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                return True
            return any(_member_is_pickle(archive, member) for member in members)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError):
        return True  # a broken or encrypted archive: nothing here could read it safely


def _member_is_pickle(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if member.filename.lower().endswith(tuple(SUFFIXES)):
        return True
    with archive.open(member) as file:
        return _is_pickle(file.read(HEAD))
