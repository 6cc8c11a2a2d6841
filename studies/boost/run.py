"""SAE Boost beside its baselines: train and measure. Run again, it goes on where it stopped. From the root of the repository:

    sparselight demo --out runs/demo
    python -m studies.boost.run --demo-run runs/demo --data-root DATA                # all of it
    python -m studies.boost.run --only planted --quick --out runs/boost-quick        # a look, in seconds
    python -m studies.boost.run --only hub --subject google/gemma-2-2b --site resid_post.12 --general hf://HuggingFaceFW/fineweb-edu \
        --domain chemistry=FOLDER --device cuda --out runs/boost-gpu
    python -m studies.boost.collect runs/specialisation

DATA holds clinc150/, stories260k/ and wikitext2/. A training is a folder OUT/BENCH/seed-N/...; the results of a domain and seed are a file of OUT/results.
"""

import argparse

from studies.boost.variants import EXPERIMENTS, open_work, run_all
from studies.common.benches import Request

DEFAULT = ("planted", "clinc", "demo", "stories")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Request.add_arguments(parser)
    parser.add_argument("--only", default=",".join(DEFAULT), help="some of planted,clinc,demo,stories,hub")
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS), help=f"some of {','.join(EXPERIMENTS)}")
    given = parser.parse_args()
    request, seeds = Request.of(given), [int(seed) for seed in given.seeds.split(",")]
    for name in given.only.split(","):
        wanted = {experiment: EXPERIMENTS[experiment][0] for experiment in given.experiments.split(",") if name in EXPERIMENTS[experiment][1]}
        run_all(open_work(name, request), wanted, request.out, seeds, [part for part in given.domains.split(",") if part])


if __name__ == "__main__":
    main()
