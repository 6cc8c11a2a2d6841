"""How folders and files of this machine are called in what other people read: reports, model cards, published SAEs.

A path names the user and the machine and means nothing elsewhere, so that only its last part is shown; in a command or a recipe, which are to be run
again, the user's own folder becomes `~`. Refuses nothing: what is no path of a machine (`owner/name`, `runs/a`, `demo`) stays as it is.
"""

import re
from pathlib import Path

ONE = re.compile(r"[/.\\].*|~([/\\].*)?|[A-Za-z]:[\\/].*", re.DOTALL)
IN_TEXT = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\,;:'\"`()<>|]+){2,}")
HUB_CACHE = re.compile(r"models--([^/\\]+?)--([^/\\]+)")
BARE = re.compile(r"(hf|model|models|weights|subject|output|out|best|last|final)([-_].*)?|(checkpoint|step|epoch)[-_]?\d.*", re.IGNORECASE)
"""Names of folders that say nothing without the folder that they stand in."""
HOMES = {"home": 2, "Users": 2, "root": 1}
"""Where people's own folders lie, and how many parts of a path lead there."""


def known_as(place: str) -> str:
    """The name of a folder or file, after that of its folder where its own is `model` or the like; a download in a hub's cache by its hub name."""
    if not ONE.fullmatch(place):
        return place
    hub = HUB_CACHE.search(place)
    if hub:
        return f"{hub[1]}/{hub[2]}"
    path, home = str(Path(place).expanduser().absolute()) if place[0] in ".~" else place, own_folder()
    is_own = bool(home) and path[len(home):len(home) + 1] in ("", "/", "\\") and path.startswith(home)
    parts = [part for part in re.split(r"[/\\]", path[len(home):] if is_own else path) if part and not part.endswith(":")]
    own = parts if is_own or not parts else parts[HOMES.get(parts[0], 0):]
    return " ".join(own[-2:] if own and BARE.fullmatch(own[-1]) else own[-1:]) or "a folder"


def without_paths(text: str) -> str:
    """A text with every path of a machine in it replaced by its name."""
    return IN_TEXT.sub(lambda found: known_as(found[0]), text)


def at_home(text: str) -> str:
    """A text with the path of the user's own folder written as `~`, which commands and settings take."""
    home = own_folder()
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", text) if home else text


def own_folder() -> str:
    return str(Path.home()).rstrip("/\\")
