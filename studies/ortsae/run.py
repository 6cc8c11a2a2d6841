"""OrtSAE beside BatchTopK, ReLU and Matryoshka at equal data and equal l0: train, evaluate, time. Run again, it goes on where it stopped.

    sparselight demo --out runs/demo
    python studies/ortsae/run.py --demo-run runs/demo --data-root DATA          # everything; about 45 minutes on two cores
    python studies/ortsae/run.py --only planted --quick --out runs/ortsae-quick # a tenth of the data, in a folder of its own
    python studies/ortsae/run.py --only demo --demo-run runs/demo --device cuda --width 65536 --tokens 50000000 --out runs/ortsae-gpu
    python studies/ortsae/collect.py runs/ortsae

DATA holds stories260k/ (stories260K.bin, tok512.bin) and wikitext2/ (valid.txt, test.txt). Every trained SAE is a folder OUT/SOURCE/seed-N/VARIANT,
every evaluation OUT/SOURCE/seed-N/evaluation (and /scr_tpp); delete one to have it made again.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sources import SOURCES, Request, Source
from timing import measure_penalty, measure_steps
from variants import SEARCH_SEED, VARIANTS, Line, find_l1, ladder, train_seed

from sparselight.evaluate import FAMILIES, Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.files import write_bytes

STEPS = ("train", "ladder", "evaluate", "time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ortsae"))
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="folder with stories260k/ and wikitext2/")
    parser.add_argument("--demo-run", type=Path, help="folder of a finished `sparselight demo`")
    parser.add_argument("--only", default=",".join(SOURCES), help=f"some of {','.join(SOURCES)}")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"some of {','.join(STEPS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--families", default="", help="metric families to evaluate, in place of all that a source has data for")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and of the training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, help="latents, in place of each source's own")
    parser.add_argument("--tokens", type=int, help="training tokens, in place of each source's own")
    chosen = parser.parse_args()
    request = Request(chosen.out, chosen.data_root, chosen.demo_run, chosen.quick, chosen.width, chosen.tokens, chosen.device)
    steps, seeds = chosen.steps.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    for name in chosen.only.split(","):
        if name not in SOURCES:
            parser.error(f"--only names {name!r}, which is none of {','.join(SOURCES)}")
        if steps == ["time"] and name != "demo":
            continue
        source = SOURCES[name](request)
        wanted = chosen.families.split(",") if chosen.families else [*source.families, *source.apart]
        source = replace(source, families=tuple(family for family in source.families if family in wanted),
                         apart={family: settings for family, settings in source.apart.items() if family in wanted})
        work(source, request.out / name, steps, seeds, request)
    if "time" in steps and not (request.out / "penalty.json").exists():
        save(request.out / "penalty.json", measure_penalty(chosen.device, quick=chosen.quick))


def work(source: Source, folder: Path, steps: list[str], seeds: list[int], request: Request) -> None:
    if "train" in steps:
        l1 = find_l1(source, folder)
        for seed in seeds:
            train_seed(source, folder, seed, l1)
    if "ladder" in steps and not (folder / "ladder.json").exists():
        save(folder / "ladder.json", ladder(source, folder))
    if "evaluate" in steps:
        l1, dataset = find_l1(source, folder), source.dataset()
        for seed in seeds:
            evaluate(source, dataset, folder, seed, l1, first=seed == SEARCH_SEED)
    if "time" in steps and not (folder / "step_times.json").exists():
        save(folder / "step_times.json", measure_steps(source, find_l1(source, folder), request.quick))


def evaluate(source: Source, dataset: Dataset, folder: Path, seed: int, l1: float, first: bool) -> None:
    """Every family that the source has data for; families that are finished in the folder are found there.

    Controls, and dictionaries against each other, are measured on the first seed only: they cost more than all else.
    """
    saes = train_seed(source, folder, seed, l1)
    known = [name for name in source.families if name in FAMILIES and (first or name != "stability")]
    common = {"n_tokens": 40_000, "controls": first}
    parts = {"evaluation": {**common, "suite": ",".join(known), "composition": {"seeds": [0]}, **source.evaluate}} if known else {}
    parts |= {name: {**common, "suite": name, **settings} for name, settings in source.apart.items()}
    contenders = {name: Contender(saes[name], is_control=False) for name in VARIANTS}
    for part, settings in parts.items():
        config = EvaluateConfig.parse(settings, "evaluate")
        place, progress = folder / f"seed-{seed}" / part, Line(f"{source.name} seed-{seed} {part}")
        run_suite(Case(source.site, {source.name: dataset}, config, source.subject), contenders, config, base="batch_topk", folder=place, progress=progress)


def save(path: Path, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
