"""Hostile strings: what somebody may put into a corpus, an item's title, a label, a file name or a model's explanation.

Each that would run a script sets `window.pwned`, so that a browser test sees it. The kinds: markup, ways out of attributes and of scripts, schemes, Unicode
that turns or hides text, control characters, encodings of markup, templates, SQL, paths, headers, and very long tokens.
"""

RUN = "window.pwned=1"

HANDLERS = (
    "onload", "onerror", "onclick", "onmouseover", "onfocus", "onblur", "onanimationstart", "onanimationend", "ontransitionend", "onpointerenter", "ontoggle",
    "onbeforetoggle", "onscroll", "onscrollend", "onwheel", "oncopy", "onpaste", "ondrag", "oninput", "onchange", "onsubmit", "onkeydown", "onresize",
    "onhashchange", "onpageshow", "onmessage", "onbegin", "onend", "onrepeat", "oncontentvisibilityautostatechange",
)
TAGS = (
    "img src=x", "svg", "body", "details open", "input autofocus", "video src=x", "audio src=x", "iframe", "marquee", "select autofocus", "textarea autofocus",
    "object data=x", "embed src=x", "button autofocus", "form", "a href=#", "div tabindex=0 autofocus", "style", "math", "custom-element", "dialog open",
    "p contenteditable autofocus", "table background=x", "link rel=stylesheet href=x", "source", "track", "frameset", "keygen autofocus", "isindex",
    "animate attributeName=x dur=1s",
)

MARKUP = (
    f"<script>{RUN}</script>", f"<SCRIPT>{RUN}</SCRIPT>", f"<script src=data:text/javascript,{RUN}></script>", f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<script\x0c>{RUN}</script>", f"<script/x>{RUN}</script>", f"<svg><script>{RUN}</script></svg>", f"<svg><script href=data:,{RUN} />",
    f"<math><mtext></mtext><script>{RUN}</script></math>", f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\">",
    f"<iframe srcdoc=\"&lt;script&gt;parent.{RUN}&lt;/script&gt;\"></iframe>", f"<iframe src=javascript:parent.{RUN}></iframe>",
    f"<object data=javascript:{RUN}></object>", f"<embed src=javascript:{RUN}>", f"<a href=javascript:{RUN}>x</a>", f"<form action=javascript:{RUN}><button>x",
    f"<base href=javascript:{RUN}//>", f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>", "<meta charset=utf-7>",
    "<link rel=import href=//evil.test>",
    "<style>*{background:url(//evil.test)}</style>", "<style>@import '//evil.test';</style>", "<div style=background:url(//evil.test)>", "<plaintext>", "<xmp>",
    f"<template><script>{RUN}</script></template>", f"<svg><foreignObject><iframe src=javascript:{RUN}>", f"<svg><a xlink:href=javascript:{RUN}><text y=9>x",
    f"<svg><use href=\"data:image/svg+xml,<svg id=x xmlns='http://www.w3.org/2000/svg'><script>{RUN}</script></svg>#x\">",
    f"<svg><set attributeName=onmouseover to={RUN}>", f"<svg><image href=x onerror={RUN}>", "<!--", "<!-- --!>", f"<![CDATA[<script>{RUN}</script>]]>",
    f"<?xml version='1.0'?><script>{RUN}</script>", "<!DOCTYPE html><html><body>", "</body></html>", "</div></div></main>", "</span></span></td></tr></table>",
    "</title>", f"</title><script>{RUN}</script>", f"</textarea><script>{RUN}</script>", f"</style><script>{RUN}</script>", f"</script><script>{RUN}</script>",
    f"</svg><script>{RUN}</script>", f"</text></svg><img src=x onerror={RUN}>", f"</desc><script>{RUN}</script>", "<img src=//evil.test/leak.png>",
    "<b>bold</b>", "a < b > c & d", "&lt;script&gt;", "&amp;lt;", "&#60;script&#62;", "&#x3c;script&#x3e;", "&NewLine;", "&colon;", "<", ">", "&",
    "\"", "'", "`",
)
ATTRIBUTES = (
    f"\" onmouseover=\"{RUN}", f"' onmouseover='{RUN}", f"\" autofocus onfocus=\"{RUN}", f"x\" style=\"animation:x\" onanimationstart=\"{RUN}",
    f"\"><img src=x onerror={RUN}>", f"'><img src=x onerror={RUN}>", f"`onmouseover={RUN}", f"\t onload={RUN}", f"\n onload={RUN}",
    f"/onload={RUN}", "\"//", "'//",
    "\" id=\"content", "\" class=\"grade-a", "\" name=\"__proto__", "style=position:fixed;inset:0", "\"]}\n",
)
SCHEMES = (
    f"javascript:{RUN}", f"JaVaScRiPt:{RUN}", f"java\tscript:{RUN}", f"java\nscript:{RUN}", f"\x01javascript:{RUN}", f"javascript&colon;{RUN}",
    f"javascript://%0a{RUN}", f"data:text/html,<script>{RUN}</script>", "data:text/html;base64,PHNjcmlwdD53aW5kb3cucHduZWQ9MTwvc2NyaXB0Pg==",
    f"vbscript:{RUN}",
    "blob:https://evil.test/1", "//evil.test/x", "\\\\evil.test\\x", "https://evil.test/%2e%2e", "file:///etc/passwd", f"view-source:javascript:{RUN}",
)
UNICODE = (
    "\u202etpircs\u202c", "\u2066\u202eevil\u2069", "\u200b<script>\u200b", "\u200d\u200c\ufeff", "\ufeff<script>", "\uff1cscript\uff1e", "\u02bascript\u02ba",
    "\u2028alert(1)\u2029", "\u0130\u0131", "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307" * 20, "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ue000\uf8ff", "\ufffe\uffff",
    "\U000e0001\U000e0020", "\u00ad\u034f\u115f\u17b4", "\u0000null", "\x1b[31mred\x1b[0m", "\x08\x08\x08", "\x07\x0b\x0c\x1f\x7f", "\r\nSet-Cookie: a=b",
    "\r\n\r\n<script>", "\x85\xa0", "\u1160\u3164", "\u0600\u06dd", "\U0001d4c8\U0001d4b8\U0001d4c7", "\u212a\u017f", "ﬀﬁﬂ", "Ⅷ", "İ" * 40, "ß" * 40,
)
TEMPLATES = (
    "{{ 7 * 7 }}", "{{ config }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "{# comment #}", "${7*7}", "${{7*7}}", "#{7*7}", "<%= 7*7 %>", "{{constructor.constructor('window.pwned=1')()}}", "{0.__class__}", "%(name)s",
    "%s%n", "$where",
    "[[${7*7}]]", "*{7*7}", "@{/x}", "{{{raw}}}", "{%raw%}", "{{ '\"' }}", "__proto__", "constructor", "hasOwnProperty", "toString", "undefined",
    "null", "NaN", "-0",
)
SQL = (
    "' OR 1=1 --", "'; DROP TABLE cards; --", "\" OR \"\"=\"", "%' OR '1'='1", "1; ATTACH 'x.db'", "'); COPY cards TO '/tmp/x'; --", "\\'; --",
    "x' UNION SELECT * FROM cards --",
    "%", "_", "\\", "$$", "?", ":name", "read_csv('/etc/passwd')", "'||(SELECT version())||'",
)
PATHS = (
    "../../etc/passwd", "..\\..\\windows", "/etc/passwd", "%2e%2e%2f", "%252e%252e%252f", "....//", "media/../run.json", "C:\\x", "\\\\?\\C:\\",
    "con", "aux.txt", "a/b/c",
    "file\nname", "-rf", "~root", "$HOME", "`id`", "$(id)", "| id", "; id", "&& id",
)
LONG = ("x" * 20_000, "<" * 5_000, "&" * 5_000, "\"" * 5_000, "<b>" * 3_000, "\u202e" * 2_000, "a " * 5_000, "({[" * 2_000, "W" * 300)

PAYLOADS: tuple[str, ...] = tuple(dict.fromkeys((
    *MARKUP, *ATTRIBUTES, *SCHEMES, *UNICODE, *TEMPLATES, *SQL, *PATHS, *LONG,
    *(f"<{tag} {handler}={RUN}>" for tag, handler in zip(TAGS, HANDLERS, strict=True)), *(f"\"{handler}={RUN} x=\"" for handler in HANDLERS[:10]),
)))
"""All of them, each once."""
