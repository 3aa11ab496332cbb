"""A search of Optuna's that goes on where it was stopped."""

import logging
import warnings
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

log = logging.getLogger(__name__)


def go_on_with_search(config: DictConfig) -> None:
    """Count the trials that a study has behind it towards `hydra.sweeper.n_trials`, and put those that were stopped on
    the list again, so that their runs go on; Hydra's plugin alone would run all anew. Does nothing for other sweepers.

    Args:
        config: that of the sweep, whose number of trials is lowered.
    """
    sweeper: Any = config.hydra.sweeper
    if "n_trials" not in sweeper or not sweeper.get("storage") or not sweeper.get("study_name"):
        return
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(logging.WARNING)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(sweeper.storage)]
    if sweeper.study_name not in names:
        return
    study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    trials = study.get_trials(deepcopy=False)
    stopped = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in stopped:
        study.tell(trial.number, state=TrialState.FAIL)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is experimental")  # in Optuna 2; part of 3
            study.enqueue_trial(trial.params)
    # each that was put on the list again is there twice
    done = sum(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial in trials)
    done -= sum("fixed_params" in trial.system_attrs for trial in trials)
    with read_write(config), open_dict(config):
        sweeper.n_trials = max(0, sweeper.n_trials - done)
        if sweeper.get("sampler") is not None and sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(trials)  # or it would propose again what it has proposed
    log.info("the search goes on: %s trials done, %s taken up again", done, len(stopped))
