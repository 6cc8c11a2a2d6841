"""Python source files as a labelled corpus: the standard library of the running interpreter, or any folder.

Owns: reading the files, cutting them into examples of bounded size, and the labels that Python itself gives for free
(package, module, and per character span: code token class, comment, docstring, string). Refuses: a folder that is not
there or holds no Python source.
"""

import ast
import io
import keyword
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from sparselight.corpus.base import ListCorpus
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Span

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "lib-dynload", "idlelib", "pydoc_data", "turtledemo"}
# Since Python 3.12 an f-string, since 3.14 a t-string, comes in parts.
STRING_PARTS = ("FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END", "TSTRING_START", "TSTRING_MIDDLE", "TSTRING_END")
MIN_LOWER_FRAC = 0.35  # code and prose are over half lower-case letters; character tables and encoded blobs fall below this


class PythonSource(ListCorpus):
    """Sections of Python files; the file is the group, package and module are labels, code token classes are spans."""

    @classmethod
    def read(cls, root: Path, include_tests: bool, section_chars: int) -> Self:
        """Read every Python file under a folder and cut it into sections of at most `section_chars` characters."""
        return cls(list(python_examples(root, include_tests, section_chars)), str(root))

    @cached_property
    def _members(self) -> dict[str, list[Example]]:
        """The sections of each file. The id names the file: a group may hold several, when they are near duplicates."""
        members: dict[str, list[Example]] = {}
        for example in self.examples:
            members.setdefault(_file(example), []).append(example)
        return members

    def annotate(self, examples: Sequence[Example]) -> list[Example]:
        """Fill in `token_class` spans. A section is labelled in the light of the whole file where this corpus holds all of it."""
        spans: dict[str, tuple[Span, ...]] = {}
        for file in dict.fromkeys(map(_file, examples)):
            members = sorted(self._members[file], key=lambda member: int(member.id.rpartition("#")[2]))
            found, offset = token_class_spans("".join(member.text for member in members)), 0
            for member in members:
                end = offset + len(member.text)
                spans[member.id] = tuple(
                    Span(max(span.start, offset) - offset, min(span.end, end) - offset, span.name, span.value)
                    for span in found if span.start < end and span.end > offset
                )
                offset = end
        return [replace(example, spans=spans[example.id]) for example in examples]


def python_examples(root: Path, include_tests: bool, section_chars: int) -> Iterator[Example]:
    """The sections of every Python file under a folder."""
    for path, text in iter_source_files(root, include_tests):
        module = module_name(path)
        labels = {"package": module.split(".")[0], "module": module}
        for number, (start, end) in enumerate(cut_sections(text, section_chars)):
            yield Example(f"{path}#{number}", text[start:end], path, labels)


def _file(example: Example) -> str:
    return example.id.rpartition("#")[0]


def stdlib_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def iter_source_files(root: Path, include_tests: bool = True) -> Iterator[tuple[str, str]]:
    """Yield (path relative to root, text) of each readable Python file, in sorted order, data tables left out."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts) or (not include_tests and _is_test(relative)):
            continue
        try:
            with tokenize.open(path) as handle:
                text = handle.read()
        except (SyntaxError, UnicodeDecodeError, LookupError):
            continue  # test data with a deliberately wrong encoding: not text in any sense that a model could use
        except OSError as err:
            raise CorpusError(
                asked=f"read the corpus file {path}", why=err.strerror or str(err),
                instead="make the file readable, or set corpus.root to another folder",
            ) from err
        if len(text) >= 40 and sum(map(str.islower, text)) / len(text) >= MIN_LOWER_FRAC:
            yield relative.as_posix(), text


def _is_test(relative: Path) -> bool:
    return any(part in ("test", "tests") for part in relative.parts[:-1]) or relative.name.startswith("test_")


def cut_sections(text: str, max_chars: int) -> list[tuple[int, int]]:
    """Cut a text at line starts into (start, end) pieces of at most max_chars characters that cover it exactly.

    A piece ends where a top-level statement begins, else after a blank line, else at any line start; a single line
    longer than max_chars is cut inside.
    """
    starts, offset = [], 0
    for line in text.splitlines(keepends=True):
        top = not line[0].isspace() and line[0] not in ")]}#\"'"
        starts.append((offset, 2 if top else 1 if line.strip() == "" else 0))
        offset += len(line)
    sections, begin = [], 0
    while len(text) - begin > max_chars:
        window = [(rank, at) for at, rank in starts if begin + max_chars // 3 < at <= begin + max_chars]
        end = max(window)[1] if window else begin + max_chars
        sections.append((begin, end))
        begin = end
    if begin < len(text):
        sections.append((begin, len(text)))
    return sections


def token_class_spans(text: str) -> list[Span]:
    """Character spans labelled by Python's own tokenizer: keyword, name, number, operator, string, docstring, comment.

    A file that the tokenizer refuses (another language version, deliberate errors) yields the spans up to the fault.
    """
    line_starts = [0]
    for line in io.StringIO(text):  # lines as the tokenizer sees them: a form feed does not end one
        line_starts.append(line_starts[-1] + len(line))
    docstrings = _docstring_positions(text)
    spans: list[Span] = []
    names = {tokenize.NUMBER: "number", tokenize.OP: "operator", tokenize.STRING: "string", tokenize.COMMENT: "comment"}
    names |= {getattr(tokenize, part): "string" for part in STRING_PARTS if hasattr(tokenize, part)}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                value = "keyword" if keyword.iskeyword(token.string) else "name"
            elif token.type in names:
                value = "docstring" if token.start in docstrings else names[token.type]
            else:
                continue
            start, end = (line_starts[line - 1] + column for line, column in (token.start, token.end))
            spans.append(Span(start, end, "token_class", value))
    except (tokenize.TokenError, SyntaxError, IndexError):
        pass
    return spans


def _docstring_positions(text: str) -> set[tuple[int, int]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the text's own invalid escapes are not the user's concern
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    positions = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            expression = node.body[0]
            positions.add((expression.lineno, expression.col_offset))
    return positions


def module_name(path: str) -> str:
    """Dotted module name of a path relative to the library root: `asyncio/sslproto.py` -> `asyncio.sslproto`."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
