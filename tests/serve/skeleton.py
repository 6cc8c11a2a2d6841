"""What an HTML parser sees of a page: its elements and attributes in order, without any text; and whether anything in it could run."""

from collections import Counter
from typing import NamedTuple

import html5lib

ALLOWED_SCRIPT = "/static/"
URL_ATTRIBUTES = {"href", "src", "action", "formaction", "xlink:href", "data", "poster", "srcset", "background", "srcdoc", "ping", "manifest", "cite"}
NEVER = {"iframe", "object", "embed", "base", "frameset", "applet", "plaintext", "xmp", "marquee", "animate", "set", "foreignobject", "use", "math", "style"}


class Element(NamedTuple):
    """An element with the names of its attributes."""

    tag: str
    attributes: tuple[str, ...]


def parsed(page: str, is_fragment: bool = False):
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    return parser.parseFragment(page) if is_fragment else parser.parse(page)


def local(name: str) -> str:
    return name.rpartition("}")[2].lower()


def skeleton(page: str, is_fragment: bool = False) -> list[Element]:
    """Elements in document order."""
    return [Element(local(node.tag), tuple(sorted(map(str, node.attrib)))) for node in parsed(page, is_fragment).iter() if isinstance(node.tag, str)]


def faults(page: str, is_fragment: bool = False) -> list[str]:
    """All that could run or load something from elsewhere, and ids that stand twice."""
    tree = parsed(page, is_fragment)
    ids = Counter(node.attrib["id"] for node in tree.iter() if isinstance(node.tag, str) and "id" in node.attrib)
    found = [f"{n} elements with the id {name!r}" for name, n in ids.items() if n > 1]
    for node in tree.iter():
        if not isinstance(node.tag, str):
            continue
        tag = local(node.tag)
        if tag in NEVER:
            found.append(f"<{tag}>")
        for name, value in node.attrib.items():
            name, address = local(str(name)), "".join(char for char in value if char > " ").lower()
            if name.startswith("on"):
                found.append(f"<{tag} {name}>")
            if name in URL_ATTRIBUTES and not address.startswith(("/", "#", "?")) and not _is_image(tag, address):
                found.append(f"<{tag} {name}={value[:60]!r}>")
            if name in URL_ATTRIBUTES and address.startswith(("//", "/\\")):
                found.append(f"<{tag} {name}={value[:60]!r}>")
            if name == "style" and ("url(" in address or "expression" in address or "position" in address):
                found.append(f"<{tag} style={value[:60]!r}>")
        if tag == "script" and (not node.attrib.get("src", "").startswith(ALLOWED_SCRIPT) or (node.text or "").strip()):
            found.append(f"<script {dict(node.attrib)}> with {(node.text or '')[:60]!r}")
    return found


def _is_image(tag: str, address: str) -> bool:
    return tag in ("img", "image", "link") and address.startswith("data:image/")
