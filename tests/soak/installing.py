"""The gateway's code as a package installs it: in one place, where an upgrade puts another version while it runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import gateway as package

OLDER, NEWER = "1.0.0+older", "1.0.0+newer"


class Installation:
    """Two versions of this code in `directory`, one of which is installed; what runs says in its log which it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._place = directory / "installed"
        for version in (OLDER, NEWER):
            _copy(directory / version, version)
        self.install(OLDER)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a service run what is installed when it starts."""
        return {"PYTHONPATH": str(self._place)}

    def install(self, version: str) -> None:
        """From now on this is what starts; what runs goes on as it is."""
        link = self._directory / "next"
        link.symlink_to(version)
        link.replace(self._place)


def _copy(to: Path, version: str) -> None:
    assert package.__file__ is not None
    copied = shutil.copytree(Path(package.__file__).parent, to / "gateway", ignore=shutil.ignore_patterns("launcher"))
    init = Path(copied, "__init__.py")
    text, count = re.subn(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text())
    assert count == 1, init
    init.write_text(f'{text}\nimport sys\n\nprint("gateway", __version__, file=sys.stderr, flush=True)\n')
