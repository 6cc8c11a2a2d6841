"""Fetching entries from UniProt's REST service: page by page, each with its checksum, resumed after an interruption, kept for the next time.

Owns: the request (query or ids), the walk along `Link: <...>; rel="next"`, retries, and the final gzip file with a record beside it (`NAME.json`). Pages
lie in `.NAME.pages` until all are there. Refuses: a file that another request left there, an answer shorter than the service said, a release of the
database that changes between two pages. Service: https://www.uniprot.org/help/pagination
"""

import gzip
import hashlib
import http.client
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Literal, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from sparselight.errors import CorpusError, SparselightError
from sparselight.files import atomic_path, folder_lock, sha256_file, write_bytes
from sparselight.protocols import Progress, no_progress
from sparselight.records import FetchedPage, UniprotFetch

SERVICE = "https://rest.uniprot.org/uniprotkb/search"
Form = Literal["txt", "tsv", "fasta"]
SUFFIX: dict[str, str] = {"txt": ".dat.gz", "tsv": ".tsv.gz", "fasta": ".fasta.gz"}
TSV_FIELDS = (
    "accession,id,sequence,length,organism_name,keyword,go_id,ec,protein_families,ft_act_site,ft_binding,ft_carbohyd,ft_coiled,ft_compbias,ft_crosslnk,"
    "ft_disulfid,ft_dna_bind,ft_domain,ft_helix,ft_intramem,ft_lipid,ft_mod_res,ft_motif,ft_propep,ft_region,ft_repeat,ft_signal,ft_site,ft_strand,"
    "ft_topo_dom,ft_transit,ft_transmem,ft_turn,ft_zn_fing"
)
PAGE_ENTRIES = 500  # the most that the service gives at once
IDS_A_QUERY = 50
TRIES, TIMEOUT_S, LONGEST_WAIT_S = 5, 60.0, 60.0
BUSY = {408, 429, 500, 502, 503, 504}
NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
STATE = "fetch.json"


class Answer(NamedTuple):
    """One page as it came."""

    body: str
    next_url: str
    n_total: int | None
    release: str


@dataclass
class UniprotRequest:
    """What is fetched, and from where."""

    query: str = ""
    """In UniProt's query language: `reviewed:true AND ft_zn_fing:*`."""
    ids: Sequence[str] = ()
    """Accessions, in place of a query; those that give no entry are listed in the record."""
    form: Form = "txt"
    """`txt` (flat file, all features), `tsv`, `fasta`."""
    max_entries: int | None = None
    service: str = SERVICE
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        if bool(self.query.strip()) == bool(self.ids):
            raise CorpusError(asked="fetch from UniProt", why="a query and ids are given" if self.ids else "neither a query nor ids are given",
                              instead="give one of the two")
        if self.max_entries is not None and self.max_entries < 1:
            raise CorpusError(asked=f"fetch {self.max_entries} entries", why="that is no entry", instead="give 1 or more")

    def urls(self) -> list[str]:
        """The first page of each query."""
        parts = [self.ids[start:start + IDS_A_QUERY] for start in range(0, len(self.ids), IDS_A_QUERY)]
        queries = [" OR ".join(f"(accession:{one}) OR (sec_acc:{one})" for one in part) for part in parts] or [self.query]
        size = PAGE_ENTRIES if self.max_entries is None else min(PAGE_ENTRIES, self.max_entries)
        fields = {"fields": TSV_FIELDS} if self.form == "tsv" else {}
        return [f"{self.service}?{urlencode({'query': query, 'format': self.form, 'size': size, 'sort': 'accession asc', **fields})}" for query in queries]

    def key(self) -> str:
        """What tells this request from others."""
        return hashlib.sha256("\n".join([*self.urls(), str(self.max_entries)]).encode()).hexdigest()


def fetch_uniprot(wanted: UniprotRequest, out: Path, progress: Progress = no_progress) -> UniprotFetch:
    """Fetch entries into one gzip file, which `load_corpus` reads; what is there already is not fetched again.

    Raises:
        CorpusError: when another request left the file, the service refuses or cannot be reached, or its answer is not whole; finished pages are kept.
    """
    out = out if out.name.endswith(".gz") else out.with_name(out.name + SUFFIX[wanted.form])
    record_path, pages = out.with_name(out.name + ".json"), out.with_name(f".{out.name}.pages")
    if record_path.is_file() and out.is_file():
        record = UniprotFetch.load(record_path)
        if record.key != wanted.key():
            raise CorpusError(asked=f"fetch into {out}", why=f"the entries of another request stand there ({record.query!r})",
                              instead="choose another name, or delete that file and its .json")
        if sha256_file(out) == record.sha256:
            return record.model_copy(update={"n_fetched_pages": 0})
    with folder_lock(pages, f"fetch into {out}"):
        record = _Walk(wanted, out, pages, progress).run()
        record.save(record_path)
    rmtree(pages, ignore_errors=True)
    return record


@dataclass
class _Walk:
    """One fetch under way."""

    wanted: UniprotRequest
    out: Path
    folder: Path
    progress: Progress
    state: UniprotFetch = field(init=False)
    n_entries: int = 0
    texts: list[list[str]] = field(default_factory=list)
    n_fetched: int = 0

    def run(self) -> UniprotFetch:
        self.state, first = self._state(), self.wanted.urls()
        for number, url in enumerate(first):
            self._follow(url, number / len(first), 1 / len(first))
        return self._finish()

    def _state(self) -> UniprotFetch:
        """Where an earlier fetch of the same request stopped."""
        try:
            state = UniprotFetch.load(self.folder / STATE)
        except SparselightError:
            state = None
        if state is not None and state.key == self.wanted.key():
            return state
        query = self.wanted.query or f"{len(self.wanted.ids)} ids: {', '.join(self.wanted.ids[:5])}"
        return UniprotFetch(key=self.wanted.key(), query=query, form=self.wanted.form, service=self.wanted.service, release="", n_entries=0, missing_ids=[],
                            sha256="", pages=[], n_fetched_pages=0)

    def _follow(self, url: str, done: float, share: float) -> None:
        """All pages of one query, those that stand whole on disk without the network.

        Args:
            done, share: of all queries, before this one and this one.
        """
        known = {page.url: page for page in self.state.pages}
        n_before, n_total = self.n_entries, None
        while url and (self.wanted.max_entries is None or self.n_entries < self.wanted.max_entries):
            page = known.get(url)
            text = self._stored(page) if page is not None else None
            if page is None or text is None:
                page, text = self._fetched(url)
            self._check_release(page)
            entries = split_entries(text, self.wanted.form)
            self.texts.append(entries)
            self.n_entries += len(entries)
            n_total = page.n_total if page.n_total is not None else n_total
            expected = min(n_total or self.n_entries, self.wanted.max_entries or n_total or self.n_entries)
            self.progress(done + share * min(1.0, (self.n_entries - n_before) / max(expected, 1)), 1.0, f"{self.n_entries:,} entries")
            url = page.next_url
        if self.wanted.max_entries is None and n_total is not None and self.n_entries - n_before != n_total:
            raise CorpusError(asked=f"fetch {n_total:,} entries", why=f"the service gave {self.n_entries - n_before:,} of them",
                              instead=f"delete {self.folder} and fetch again")

    def _stored(self, page: FetchedPage) -> str | None:
        path = self.folder / page.name
        return gzip.decompress(path.read_bytes()).decode() if path.is_file() and sha256_file(path) == page.sha256 else None

    def _fetched(self, url: str) -> tuple[FetchedPage, str]:
        answer = ask(url, self.wanted)
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.gz"
        write_bytes(self.folder / name, gzip.compress(answer.body.encode(), mtime=0))
        page = FetchedPage(url=url, name=name, sha256=sha256_file(self.folder / name), next_url=answer.next_url, n_total=answer.n_total, release=answer.release)
        self.state = self.state.model_copy(update={"pages": [*(kept for kept in self.state.pages if kept.url != url), page]})
        self.state.save(self.folder / STATE)
        self.n_fetched += 1
        return page, answer.body

    def _check_release(self, page: FetchedPage) -> None:
        first = self.state.pages[0].release if self.state.pages else page.release
        if page.release != first:
            (self.folder / STATE).unlink(missing_ok=True)
            raise CorpusError(asked=f"go on with {self.out}", instead="run the same command again: it begins anew",
                              why=f"UniProt moved from release {first} to {page.release} in between, so the pages do not belong together")

    def _finish(self) -> UniprotFetch:
        entries = [entry for part in self.texts for entry in part][:self.wanted.max_entries]
        if not entries:
            raise CorpusError(asked=f"fetch {self.wanted.query or 'these ids'!r} from UniProt", why="no entry matches",
                              instead="try the query on uniprot.org, or check the ids: obsolete ones give no entry")
        header = self._tsv_header() if self.wanted.form == "tsv" else ""
        with atomic_path(self.out) as temporary:
            temporary.write_bytes(gzip.compress((header + "".join(entries)).encode(), mtime=0))
        found = {name for entry in entries for name in names_of(entry, self.wanted.form)}
        return self.state.model_copy(update={
            "n_entries": len(entries), "missing_ids": [one for one in self.wanted.ids if one not in found], "sha256": sha256_file(self.out),
            "release": self.state.pages[0].release if self.state.pages else "", "n_fetched_pages": self.n_fetched,
        })

    def _tsv_header(self) -> str:
        text = self._stored(self.state.pages[0]) or ""
        return text.split("\n", 1)[0] + "\n"


def ask(url: str, wanted: UniprotRequest) -> Answer:
    """One page, tried again with growing waits while the service is busy or the connection fails.

    Raises:
        CorpusError: when it refuses the request, or after the last try.
    """
    why = ""
    for number in range(TRIES):
        wait = min(LONGEST_WAIT_S, 2.0**number)
        try:
            with urlopen(Request(url, headers={"Accept-Encoding": "gzip", "User-Agent": "sparselight"}), timeout=TIMEOUT_S) as response:
                raw, headers = response.read(), response.headers
            body = gzip.decompress(raw) if headers.get("Content-Encoding") == "gzip" else raw
            found = NEXT.search(headers.get("Link") or "")
            total = headers.get("X-Total-Results")
            following = _same_host(found[1], url) if found else ""
            return Answer(body.decode("utf-8"), following, int(total) if total else None, headers.get("X-UniProt-Release") or "")
        except HTTPError as err:
            why = f"the service answers {err.code}: {err.read(300).decode('utf-8', 'replace').strip() or err.reason}"
            if err.code not in BUSY:
                raise CorpusError(asked="fetch from UniProt", why=why, instead="mend the query (see uniprot.org/help/query-fields)") from None
            asked_for = err.headers.get("Retry-After") or ""
            wait = min(LONGEST_WAIT_S, float(asked_for)) if asked_for.isdecimal() else wait
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException, EOFError, OSError, UnicodeDecodeError) as err:
            why = f"{urlsplit(url).netloc}: {getattr(err, 'reason', None) or err or type(err).__name__}"
        if number < TRIES - 1:
            wanted.sleep(wait)
    raise CorpusError(asked=f"fetch from UniProt ({TRIES} tries)", why=why, instead="run the same command again later: finished pages are kept")


def _same_host(following: str, url: str) -> str:
    if urlsplit(following)[:2] != urlsplit(url)[:2]:
        raise CorpusError(asked="fetch the next page", why=f"it is said to be at {urlsplit(following).netloc or following!r}, another place",
                          instead="report this: the service has changed")
    return following


def split_entries(text: str, form: str) -> list[str]:
    """The entries of a page; of a TSV the lines below its header."""
    if form == "tsv":
        return [line + "\n" for line in text.split("\n")[1:] if line.strip()]
    if form == "fasta":
        return [f">{part}" if part.endswith("\n") else f">{part}\n" for part in re.split(r"(?m)^>", text) if part.strip()]
    return [f"{part}\n//\n" for part in re.split(r"\n//(?:\n|$)", text) if part.strip()]


def names_of(entry: str, form: str) -> list[str]:
    """Accessions of an entry, secondary ones included where the form tells them."""
    if form == "tsv":
        return [entry.split("\t", 1)[0]]
    if form == "fasta":
        return entry.split("|")[1:2]
    return [name for line in entry.split("\n") if line.startswith("AC ") for name in re.findall(r"\w+", line[2:])]
