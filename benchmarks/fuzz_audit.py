"""What no loader may do, seen by an audit hook: run or import code, start processes, open sockets, and write or delete
anything outside of a folder.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod",
    "shutil.rmtree", "shutil.move", "shutil.copyfile",
)  # fmt: skip


class Watch:
    """An audit hook cannot be taken away: it is on while `folder` is set."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        self.roots: set[str] = set()
        self.places = (str(ROOT), sys.prefix, sys.base_prefix, str(Path(os.__file__).parent), "<frozen")
        sys.addaudithook(self.hook)

    @contextlib.contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        self.seen, self.roots = [], {name.partition(".")[0] for name in sys.modules}
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def hook(self, event: str, details: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        wrong = self.wrong(event, details)
        if wrong:
            self.seen.append(f"{event} {wrong}"[:200])

    def wrong(self, event: str, details: tuple[Any, ...]) -> str:
        if event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"):
            return repr(details)
        if event.startswith(("socket.", "ctypes.dlopen", "ftplib", "urllib", "smtplib")):
            harmless = event == "socket.gethostname" or details == (None,)  # ctypes: of what is loaded already
            return "" if harmless else repr(details)
        if event == "import":
            return "" if str(details[0]).partition(".")[0] in self.roots | {"encodings"} else str(details[0])
        if event == "exec":
            file = getattr(details[0], "co_filename", "?")
            return "" if file.startswith(self.places) else file
        if event == "open":
            path, _, flags = details
            writes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)) if isinstance(flags, int) else False
            )
            return str(path) if writes and self.is_outside(path, not flags & os.O_NOFOLLOW) else ""
        if event in CHANGES:
            return repr(details) if self.is_outside(details[0]) else ""
        return ""

    def is_outside(self, path: Any, follows: bool = False) -> bool:
        """follows: what is done to a link is done to what it leads to."""
        if isinstance(path, int):
            return False
        folder, name = os.path.split(os.fsdecode(path))
        real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(folder), name)
        return not real.startswith((str(self.folder), "/dev/null"))
