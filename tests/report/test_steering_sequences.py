"""The page of a study of steered sequences: whole, self-contained, what the judge found marked, verdicts that say what the numbers say."""

import re
from pathlib import Path

from sparselight.evaluate.statistics import wilson
from sparselight.intervene.sequence_study import SHUFFLED
from sparselight.records import SequenceArm, SequenceJudge, SequenceSteeringRecord, WrittenSequence
from sparselight.report.steering_sequences import headline, marked_residues, render_sequence_study, verdicts, write_sequence_study

EVIL = "<script>alert(1)</script>"
FINGER = "MYKCPECGKSFSQKSNLQKHQRTHTG"


def arm(kind: str, strength: float, hits: int, p: float | None = 0.01) -> SequenceArm:
    return SequenceArm(
        kind=kind, strength=strength, what=f"{kind} {EVIL}", success=wilson(hits, 60, "sequences"), chance=wilson(1, 60, "sequences"), low_complexity=0.1,
        entropy_bits=3.9, composition_distance=0.2, hydropathy=1.3, identity=None if kind == "no edit" else 0.07, distinct_frac=1.0, pseudo_perplexity=17.0,
        p=None if kind == "latent" else p, sequences=[WrittenSequence(text=FINGER, seed=0, is_hit=hits > 10, marked=[(3, 24)] if hits > 10 else [])])


def study(with_probe: bool = False, beats: bool | None = True) -> SequenceSteeringRecord:
    natural, without = wilson(50, 60, "sequences"), wilson(2, 60, "sequences")
    judge = SequenceJudge(what="a judge", natural=natural, natural_without=without, auroc=0.97, precision=0.8, recall=0.7)
    if not with_probe:
        judge = SequenceJudge(what="the pattern R-G-D", natural=wilson(2, 60, "sequences"))
    arms = [arm("no edit", 0, 2), arm("latent", 1, 12), arm("random latent", 1, 3), arm("latent", 2, 24), arm("random latent", 2, 4)]
    return SequenceSteeringRecord(
        name="base-7-clamp-sequences", subject="tiny", site="resid_post.1", source="base", latent=7, title=f"residues {EVIL}", operation="clamp", reference=3.0,
        reference_what="0.99 quantile", goal=f"a match of {EVIL}", judge=judge, arms=arms, notes=["a note"], settings={"strengths": [1.0, 2.0], "start": EVIL},
        beats={"no edit": beats, "random latent": beats, "other concept": None, SHUFFLED: beats}, seeds=list(range(60)), created="now", sparselight_version="0")


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    page = render_sequence_study(study())
    assert EVIL not in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page
    assert page.count('<svg class="figure') == 1
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    write_sequence_study(study(), tmp_path / "steering.html")
    assert (tmp_path / "steering.html").read_text() == page


def test_what_the_judge_found_is_marked_in_blocks_of_ten() -> None:
    assert marked_residues("ACDEFGHIKLMN", [(2, 4), (3, 11)]) == "AC<mark>DEFGHIKL M</mark>N"
    assert marked_residues("ACD", []) == "ACD"
    assert marked_residues("ACD", [(1, 3)]) == "A<mark>CD</mark>"
    page = render_sequence_study(study())
    assert "MYK<mark>CPECGKS FSQKSNLQKH QRTH</mark>TG" in page
    assert "with, seed 0: hit, residues 4-24" in page
    assert "without, seed 0: no hit" in page


def test_sentences_follow_the_numbers() -> None:
    assert headline(study()).startswith("Clamping base/7 at strength 2, 40.0\xa0% [")
    said = dict(verdicts(study()))
    assert said["random latent"].startswith("beaten. 6.67\xa0%")
    assert "at strength 2; the latent there 40.0\xa0%" in said["random latent"]
    assert "the latent at strength 2 40.0\xa0%" in said["no edit"]
    assert said[SHUFFLED].startswith("beaten. 1.67\xa0%")
    assert "at strength 2; the latent there" in said[SHUFFLED]
    assert "F1 0.747 (precision 0.800, recall 0.700)" in render_sequence_study(study(with_probe=True))
    assert said["other concept"] == "not written, so nothing can be said."
    assert dict(verdicts(study(beats=False)))["no edit"].startswith("not beaten.")
    assert "false alarm" in render_sequence_study(study(with_probe=True))
    assert "match" in render_sequence_study(study())
