"""What an evaluation is asked to measure: SAEs from run folders and SAE folders, their subject and site, and the examples.

Owns: which SAEs of a run take part and what they are called, that all belong to one subject and one site, and how stores and a corpus become
a fit side and a held-out side. Refuses: SAEs of different subjects, sites or widths, stores of another subject, tokens that an SAE was
trained on as held-out ones, and stores that share no example with the corpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparselight.corpus import ListCorpus
from sparselight.errors import ConfigError, CorpusError, RunError, SaeError, StoreError, SubjectError, nearest
from sparselight.evaluate import Contender, Dataset
from sparselight.pipeline.engine import Run
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.stages import RESIDUAL_PAIRS, RunStages
from sparselight.protocols import Example
from sparselight.records import RunRecord, StageRecord, SubjectRef
from sparselight.sae import Sae
from sparselight.sae.formats import load_sae
from sparselight.store import FolderStore
from sparselight.subjects import SubjectConfig

STEPS = {"sae", "best"}  # folder names that say nothing of what is in them
NEEDED_STAGES = ("corpus", "select", "harvest", "train", "residual")


@dataclass
class Found:
    """SAEs to evaluate, all at one site of one subject."""

    contenders: dict[str, Contender] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    run: RunStages | None = None
    """The first run among the places: its stores and examples serve where no others are given."""

    @property
    def saes(self) -> dict[str, Sae]:
        return {name: contender.coder for name, contender in self.contenders.items() if isinstance(contender.coder, Sae)}

    def add(self, name: str, contender: Contender, source: str) -> None:
        self.contenders[name] = contender
        self.sources[name] = source


def find_saes(places: Sequence[str]) -> Found:
    """Open run folders and SAEs.

    Raises:
        RunError: for a run that is not far enough.
        SaeError: for what is no SAE.
    """
    if not places:
        raise ConfigError(asked="evaluate nothing", why="no SAE and no run folder is named", instead="give the folder of a run or of an SAE")
    found = Found()
    for name, place in zip(short_names(places), places, strict=True):
        if not (Path(place) / "run.json").is_file():
            found.add(name, Contender(load_sae(place), is_control=False), place)
            continue
        run = open_run(Path(place))
        check_same_corpus(found.run, run)
        found.run = found.run or run
        prefix = f"{name}/" if len(places) > 1 else ""
        for coder, (contender, folder) in run.coders().items():
            found.add(prefix + coder, contender, folder)
        found.pairs += [(prefix + coder, prefix + reference) for coder, reference in RESIDUAL_PAIRS]
    return found


def short_names(places: Sequence[str]) -> list[str]:
    """The shortest endings of the paths that differ, without folder names that say nothing."""
    parts = [[part for part in Path(place).parts if part not in STEPS] or [place] for place in places]
    for length in range(1, 1 + max(map(len, parts))):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(asked=f"evaluate {' '.join(places)}", why="one of them is named twice", instead="name each SAE or run once")


def open_run(folder: Path) -> RunStages:
    """A run whose SAEs are trained, by its records.

    Raises:
        RunError: when a stage that the evaluation reads is not finished.
    """
    record = RunRecord.load(folder / "run.json")
    missing = [stage for stage in NEEDED_STAGES if stage not in record.stages]
    if missing:
        raise RunError(asked=f"evaluate the run {folder}", why=f"its stage {missing[0]} is not finished",
                       instead=f"run its recipe with --out {folder} until {NEEDED_STAGES[-1]}")
    stages = {stage: StageRecord.load(folder / place / "record.json") for stage, place in record.stages.items()}
    return RunStages(Recipe.parse(record.recipe), Run(folder, stages))


def check_same_corpus(first: RunStages | None, other: RunStages) -> None:
    """Refuse a run whose held-out examples may be trained on in another: its corpus must be the same and split alike.

    Raises:
        RunError: naming both.
    """
    if first is None:
        return
    ours, theirs = (run.run.records["corpus"].output for run in (first, other))
    if ours != theirs:
        raise RunError(asked=f"evaluate {first.run.folder} and {other.run.folder} on the same tokens",
                       why="their corpora differ or are split differently, so that one may have trained on what the other holds out",
                       instead="evaluate each by itself, or run both recipes with the same corpus settings")


def agreed_site(saes: Mapping[str, Sae], site: str | None) -> str:
    """The one site of all SAEs, by their records, and their one width.

    Raises:
        SaeError: when they differ.
        ConfigError: when no record and no option says it.
    """
    known = {name: sae.record.site for name, sae in saes.items() if sae.record is not None}
    first = next(iter(known), None)
    for name, own in known.items():
        if site is not None and own != site:
            raise SaeError(asked=f"evaluate {name} at {site}", why=f"its record says that it was trained at {own}", instead=f"leave out --site {site}")
        assert first is not None
        if own != known[first]:
            raise SaeError(asked=f"evaluate {first} and {name} together", why=f"the first was trained at {known[first]}, the second at {own}",
                           instead="evaluate SAEs of one site together")
    if site is None and first is None:
        raise ConfigError(asked="evaluate these SAEs", why="no record says at which site they were trained", instead="give --site, such as resid_post.12")
    widths = {name: sae.d_in for name, sae in saes.items()}
    for name, width in widths.items():
        if width != widths[next(iter(widths))]:
            raise SaeError(asked=f"evaluate {next(iter(widths))} and {name} together", why=f"they read {widths[next(iter(widths))]} and {width} dimensions",
                           instead="evaluate SAEs of one site together")
    return site or known[str(first)]


def check_one_subject(refs: Mapping[str, SubjectRef]) -> None:
    """Refuse what belongs to different subjects.

    Args:
        refs: what it is, in words -> the subject that its record names.

    Raises:
        SubjectError: naming the two.
    """
    first = next(iter(refs), None)
    for what, ref in refs.items():
        if first is not None and ref.fingerprint != refs[first].fingerprint:
            raise SubjectError(
                asked=f"evaluate {first} with {what}",
                why=f"{first} belongs to {refs[first].name} ({refs[first].fingerprint[:12]}), {what} to {ref.name} ({ref.fingerprint[:12]})",
                instead="use what was made with the same weights, tokenizer and token policy")


def check_store(store: FolderStore, site: str, saes: Mapping[str, Sae], held_out: bool) -> None:
    """Refuse a store without the site, of another width, or, as held-out one, that an SAE was trained on.

    Raises:
        StoreError: naming the store.
    """
    asked = f"evaluate at {site} on the store {store.location}"
    if site not in store.manifest.sites:
        raise StoreError(asked=asked, why="that site is not in it", instead=nearest(site, store.manifest.sites))
    for name, sae in saes.items():
        if sae.d_in != store.manifest.sites[site]:
            raise StoreError(asked=asked, why=f"it holds rows of width {store.manifest.sites[site]}, {name} reads {sae.d_in}",
                             instead="give a store of the SAE's own site and subject")
        if held_out and sae.record is not None and sae.record.store_fingerprint == store.fingerprint:
            raise StoreError(asked=f"take {store.location} as held-out tokens", why=f"{name} was trained on this very store",
                             instead="give --held-out a store of examples that were not trained on, and this one as --store")


def bare_examples(store: FolderStore) -> list[Example]:
    """The examples of a store where no corpus is given: ids and groups, no text and no labels."""
    table = store.examples()
    return [Example(identifier, "", group) for identifier, group in zip(table.column("id").to_pylist(), table.column("group").to_pylist(), strict=True)]


def make_dataset(corpus: ListCorpus | None, fit: FolderStore | None, held_out: FolderStore | None, held_out_frac: float, seed: int) -> Dataset | None:
    """Examples with a fit side and a held-out side, from a corpus, stores, or both; None where neither is given.

    With a corpus, a store chooses the examples of its side, and all groups that are not in it are the other side; without any store the corpus
    is split. Without a corpus the examples have no text; a single store is then divided by groups.

    Raises:
        ConfigError: when only the fit side is given.
        CorpusError: when a store shares no example with the corpus, or one side would be empty.
    """
    if corpus is None:
        if held_out is None and fit is None:
            return None
        if held_out is None:
            raise ConfigError(asked="evaluate on --store alone", why="probes, thresholds and controls are fitted on it, and nothing is left to measure on",
                              instead="give --held-out STORE or --corpus too")
        if fit is not None:
            return Dataset("general", bare_examples(fit), bare_examples(held_out), fit, held_out)
        rest, measured = ListCorpus(bare_examples(held_out), held_out.location).split(held_out_frac, seed)
        return Dataset("general", rest.examples, measured.examples, held_out, held_out)
    if fit is None and held_out is None:
        train, measured = corpus.split(held_out_frac, seed)
    else:
        chosen = {store: _stored_in(corpus, store) for store in (fit, held_out) if store is not None}
        train = chosen[fit] if fit is not None else _other_groups(corpus, chosen[held_out])  # type: ignore[index]
        measured = chosen[held_out] if held_out is not None else _other_groups(corpus, chosen[fit])  # type: ignore[index]
    return Dataset("general", train.examples, measured.examples, fit, held_out, corpus.annotate)


def _stored_in(corpus: ListCorpus, store: FolderStore) -> ListCorpus:
    known = store.number_of()
    indices = [index for index, example in enumerate(corpus) if example.id in known]
    if not indices:
        raise CorpusError(asked=f"evaluate the corpus {corpus.origin} on the store {store.location}", why="they share no example id",
                          instead="give the corpus that was harvested, with the same corpus settings")
    return corpus.subset(indices)


def _other_groups(corpus: ListCorpus, taken: ListCorpus) -> ListCorpus:
    groups = set(taken.groups())
    indices = [index for index, example in enumerate(corpus) if example.group not in groups]
    if not indices:
        raise CorpusError(asked=f"hold out part of {corpus.origin}", why="every group of it is in the store", instead="give a store of the other side too")
    return corpus.subset(indices)


def subject_settings(ref: SubjectRef) -> SubjectConfig:
    """The subject that a record names, with the token policy that it names."""
    policy = ref.token_policy
    same = {name: getattr(policy, name) for name in (
        "context_tokens", "count_specials", "padding_side", "long_examples", "overlap_tokens", "skip_start_tokens", "pack", "max_norms", "pooling")}
    if policy.images is not None:
        same["image_text"] = policy.images.model_dump(mode="json")
    source, _, revision = (ref.source, "", "") if ref.source else ref.name.partition("@")
    return SubjectConfig.parse({**same, "source": source, "revision": revision or None, "bos": "auto" if policy.prepend_bos else "never",
                                "chat_template": bool(policy.chat_prefix)}, "subject")
