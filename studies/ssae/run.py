"""Specialised SAEs: how to choose the data, what tilted risk does, and SHIFT. Run again, it goes on where it stopped. From the root of the repository:

    sparselight demo --out runs/demo
    python -m studies.ssae.run --demo-run runs/demo --data-root DATA           # all of it
    python -m studies.ssae.run --only planted --quick --out runs/ssae-quick    # a look, in seconds
    python -m studies.ssae.collect runs/specialisation
    python -m studies.ssae.bias_in_bios --device cuda                          # the paper's protocol, from the Hugging Face data set

DATA holds clinc150/ and biasbios_sample/. A training is a folder OUT/BENCH/seed-N/...; the results of a domain and seed are a file of OUT/results.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from studies.boost.variants import Experiment, Work, open_work, run_all
from studies.common.benches import Request
from studies.common.sentences import biographies
from studies.ssae.selection import compare_selections
from studies.ssae.shift import measure_shift
from studies.ssae.tilt import sweep_tilt

EXPERIMENTS: dict[str, tuple[Experiment, Sequence[str]]] = {
    "ssae-tilt": (sweep_tilt, ("planted", "clinc", "demo")), "ssae-selection": (compare_selections, ("demo",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Request.add_arguments(parser)
    parser.add_argument("--only", default="planted,clinc,demo,bios", help="some of planted,clinc,demo,bios")
    parser.add_argument("--experiments", default=",".join((*EXPERIMENTS, "ssae-shift")), help=f"some of {','.join((*EXPERIMENTS, 'ssae-shift'))}")
    given = parser.parse_args()
    request, seeds = Request.of(given), [int(seed) for seed in given.seeds.split(",")]
    for name in given.only.split(","):
        work, experiments = open_bench(name, request)
        chosen = {experiment: experiments[experiment] for experiment in given.experiments.split(",") if experiment in experiments}
        run_all(work, chosen, request.out, seeds, [part for part in given.domains.split(",") if part])


def open_bench(name: str, request: Request) -> tuple[Work, dict[str, Experiment]]:
    """A bench, and the experiments that it has data for."""
    if name != "bios":
        return open_work(name, request), {experiment: run for experiment, (run, benches) in EXPERIMENTS.items() if name in benches}
    bios = biographies(request)
    return Work(bios.bench, request.out / name, lambda _: {}), {"ssae-shift": partial(measure_shift, bios)}


if __name__ == "__main__":
    main()
