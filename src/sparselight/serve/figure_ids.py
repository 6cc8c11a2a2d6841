"""Ids inside figures: several figures of one name may stand on a page, and an id may stand there once.

Owns the attributes in which an SVG of ours names its own parts. Refuses nothing.
"""

import re

NAMED = re.compile(r'( id="| aria-labelledby="| href="#|url\(#)([^")]*)')


def owned(svg: str, owner: str) -> str:
    """A figure whose ids end in its owner's name.

    Args:
        owner: plain characters of a name; unique on the page.
    """
    return NAMED.sub(lambda found: found[1] + " ".join(f"{part}-{owner}" for part in found[2].split()), svg)
