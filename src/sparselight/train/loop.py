"""The training loop: one stream of activations, any number of SAEs. It knows no architecture and no term of an objective by name.

An SAE whose step is refused stops alone, its last good checkpoint kept; the others go on.
"""

from collections.abc import Sequence

from sparselight.errors import TrainingError
from sparselight.protocols import Progress
from sparselight.train.data import Rows
from sparselight.train.step import Training


def train_loop(trainings: Sequence[Training], rows: Rows, progress: Progress) -> None:
    """Take every training from the step where it stands to its last one; each step's activations are read once for all.

    Raises:
        TrainingError: when the activations themselves are not finite: nobody can go on.
    """
    total = sum(training.n_steps for training in trainings)
    done = sum(training.state.step for training in trainings)
    for step in range(min(training.state.step for training in trainings), max(training.n_steps for training in trainings)):
        due = [training for training in trainings if training.state.step == step < training.n_steps and training.stopped is None]
        if not due:
            continue
        batch = rows.batch(step)
        for training in due:
            try:
                note = training.step(batch)
            except TrainingError as err:
                training.stopped, note = err, "stopped"
            done += 1
            progress(done * len(batch.x), total * len(batch.x), note if len(trainings) == 1 else f"{training.name}: {note}")
