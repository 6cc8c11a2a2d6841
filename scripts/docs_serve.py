"""The part of docs/performance.md about the explorer, from benchmarks/results/serve.json. Used by docs_features.py."""

from collections.abc import Iterator
from typing import Any

from docs_activations import table

SERVE = """\
A made run; each person asks for the overview, a part of the list, a search (again: a text that was searched before), a feature that nobody has asked for yet,
or its page, over loopback from a process on the same machine, whose work counts against the server's. Looking: a pause of a second on average after each
answer. Without pause: as fast as answers come. The processor time of a request is the server's, one request after the other, and says the same on a busy
machine.
"""


def serve_lines(result: dict[str, Any]) -> Iterator[str]:
    """Targets, times by kind of request, memory."""
    goal, looking, never = result["goal"], result["looking"]["kinds"], result.get("never_opened")
    yield from (f"{result['n_latents']:,} latents with {result['n_contexts']} contexts each over {result['n_tokens']:,} tokens, a catalogue of "
                f"{result['catalogue_mb']:,} MB; {result['users']} people at once.", "")
    rows = [("Page data, 95 of 100 within", goal["page_p95_ms"], looking["all"]["p95_ms"], "ms"),
            ("Search, 95 of 100 within", goal["search_p95_ms"], looking["search"]["p95_ms"], "ms"),
            *([("First overview after a start", goal["first_overview_s"], result["first_overview_s"], "s")] if never else []),
            ("Memory of the server, its most", goal["memory_mb"], result["memory_mb"], "MB")]
    yield from table(("Target", "Limit", "Measured, looking"), [
        (title, f"<= {limit:,} {unit}", told if found <= limit else f"**{told}**")
        for title, limit, found, unit in rows for told in [f"{found:,.{1 if unit == 's' else 0}f} {unit}"]])
    lines = []
    for kind, cpu in [*result["cpu_ms"].items(), ("all", result["without_pause"]["cpu_ms_a_request"])]:
        busy = result["without_pause"]["kinds"].get(kind, {})
        own = looking.get(kind, {})
        lines.append((kind, f"{cpu:.1f}", *(f"{part[name]:,.0f}" if part else "-" for part in (own, busy) for name in ("p50_ms", "p95_ms"))))
    yield from table(("Request", "Processor, ms", "Looking: median, ms", "95 %, ms", "Without pause: median, ms", "95 %, ms"), lines)
    opened = (f"Of a run that nobody has opened before it takes {never['first_overview_s']:.1f} s, for its catalogue is put together then, and lists show peak "
              f"tokens after {never['warm_s']:.0f} s; at later starts after {result['warm_s']:.1f} s. " if never else "")
    yield from (f"Requests a second: {result['looking']['requests_per_s']:,.0f} looking, {result['without_pause']['requests_per_s']:,.0f} without pause. Once "
                f"it was read, the overview takes {result['overview_page_ms']:,.0f} ms. {opened}The program is there after {result['start_s']:.1f} s; of the "
                f"memory {result['imports_mb']:,.0f} MB are the imports.", "")
