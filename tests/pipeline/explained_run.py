"""A run folder whose stages left next to nothing: what tests of the run's catalogue need."""

from sparselight.interpret import save_catalogue, write_catalogue
from sparselight.interpret.evidence import graded
from sparselight.records import Card, Context, EditResult, Evidence, Explanation, InterventionRecord, MetricValue, RunRecord, StageRecord

FOLDERS = {"train": "train-1", "residual": "residual-1", "evaluate": "evaluate-1", "explain": "explain-1", "intervene": "intervene-1"}
CONTEXT = Context(example="e", group="lists.py", tokens=["a", " key", "\n"], activations=[0.0, 2.0, 0.0], peak=1)


def value(number, low=None, high=None):
    return MetricValue(value=number, low=low, high=high, n=7)


def card_of(source, latent, text="the word `key`", f1=0.9):
    own, control = value(f1, f1 - 0.1, 1.0), value(0.1, 0.0, 0.2)
    evidence = Evidence(precision=own, recall=own, f1=own, control_f1=control, threshold=0.5, n_fires=30, n_labelled=40)
    explanation = Explanation(text=text, label="word=key", explainer="statistical", evidence=evidence)
    return graded(Card(latent=latent, source=source, fire_rate=0.01, domain_fire_rate=0.04, max_activation=2.0, explanation=explanation, contexts=[CONTEXT],
                       promotes=[" value"], suppresses=["\n"], n_fires=9, n_tokens=900))


def make_run(folder, stages=tuple(FOLDERS)):
    """A run with two base latents and one residual latent, as far as these stages."""
    run = folder / "run"
    for stage in stages:
        write_stage(run, stage, FOLDERS[stage], {"weights": f"weights of {stage}"})
    if "explain" in stages:
        cards = [card_of("base", 0), card_of("base", 1, f1=0.3), card_of("residual", 0)]
        controls = [{"source": "base", "control": "random_latent", "n_explain": 9, "f1": f1} for f1 in (0.1, 0.2, 0.3, 0.6)]
        write_catalogue([cards], run / FOLDERS["explain"], controls=controls)
    if "intervene" in stages:
        edit = {"operation": "ablate", "site": "resid_post.1", "amount": 0.0}
        result = EditResult(card="base/0", edit=edit, context=CONTEXT, next_tokens=[], next_actual="x", kl_nats=0.5,
                            side_effect_kl_nats=value(0.1), control_kl_nats=value(0.2))
        InterventionRecord(results=[result]).save(run / FOLDERS["intervene"] / "interventions.json")
    save_run(run, {stage: FOLDERS[stage] for stage in stages})
    return run


def redo(run, stage, place, cards, weights=None):
    """The run after a stage was done again in another folder, with other weights of some SAEs."""
    stages = {**FOLDERS, stage: place}
    write_stage(run, stage, place, {})
    save_catalogue(cards, run / place)
    for name, new in (weights or {}).items():
        write_stage(run, name, stages[name], {"weights": new})
    save_run(run, stages)


def write_stage(run, stage, place, summary):
    (run / place).mkdir(parents=True, exist_ok=True)
    StageRecord(stage=stage, hash=place, output=place, inputs={}, config={}, wall_s=1.0, machine="", sparselight_version="", summary=summary,
                files={}).save(run / place / "record.json")


def save_run(run, stages):
    RunRecord(name="small", recipe={}, stages=stages, wall_s={}).save(run / "run.json")
