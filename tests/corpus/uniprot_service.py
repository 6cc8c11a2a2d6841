"""A small HTTP server that pages as UniProt's REST service does: Link headers, totals, a release; it can fail on demand."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit


def flat_entry(accession: str, sequence: str = "MKTAYIAKQRQISFVKSHFS", secondary: str = "") -> str:
    return (f"ID   {accession}_TEST             Reviewed;          {len(sequence)} AA.\nAC   {accession};{f' {secondary};' if secondary else ''}\n"
            "DT   01-JAN-1990, integrated into UniProtKB/Swiss-Prot.\nDT   01-JAN-1990, sequence version 1.\nDT   01-JAN-2020, entry version 9.\n"
            "DE   RecName: Full=Test;\nOS   Homo sapiens (Human).\nOC   Eukaryota.\nOX   NCBI_TaxID=9606;\n"
            "FT   ZN_FING         2..9\nFT                   /note=\"C2H2-type 1\"\n"
            f"SQ   SEQUENCE   {len(sequence)} AA;  2000 MW;  0123456789ABCDEF CRC64;\n     {sequence}\n//\n")


@dataclass
class Service:
    entries: list[str]
    names: list[str]
    url: str = ""
    release: str = "2026_01"
    total: int | None = None  # said instead of the true one
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # status and headers of the next answers
    refuse_after: int | None = None  # pages, after which the connection is cut
    n_pages: int = 0
    link_host: str = ""

    def page(self, query: dict[str, list[str]], path: str) -> tuple[int, dict[str, str], bytes]:
        if self.failures:
            status, headers = self.failures.pop(0)
            return status, headers, json.dumps({"messages": ["not now"]}).encode()
        wanted = query["query"][0]
        if "syntax error" in wanted:
            return 400, {}, b'{"messages":["Invalid query"]}'
        chosen = [entry for entry, name in zip(self.entries, self.names, strict=True) if "accession:" not in wanted or f"accession:{name})" in wanted]
        start, size = int(query.get("cursor", ["0"])[0]), int(query["size"][0])
        self.n_pages += 1
        headers = {"X-Total-Results": str(len(chosen) if self.total is None else self.total), "X-UniProt-Release": self.release, "Content-Encoding": "gzip"}
        if start + size < len(chosen):
            following = urlencode({**{name: values[0] for name, values in query.items()}, "cursor": start + size})
            headers["Link"] = f'<{self.link_host or self.url}{path}?{following}>; rel="next"'
        header = "Entry\tSequence\n" if query["format"][0] == "tsv" else ""
        return 200, headers, gzip.compress((header + "".join(chosen[start:start + size])).encode())


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """The address of the service while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if service.refuse_after is not None and service.n_pages >= service.refuse_after:
                self.connection.close()
                return
            status, headers, body = service.page(parse_qs(parts.query), parts.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{service.url}/uniprotkb/search"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
