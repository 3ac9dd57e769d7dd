#!/bin/sh
# A trial that optuna prunes leaves the tracker's `with` block by an exception, and is a failed run there.
. "$(dirname "$0")/setup.sh"
environment optuna==5.0.0 mlflow-skinny==3.9.0
echo 'expected:  a pruned trial is no failure: it was stopped because it would not win'

cat >study.py <<'END'
import mlflow, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
mlflow.set_tracking_uri("file:./runs")
ids = []
def objective(trial):
    with mlflow.start_run() as run:
        ids.append(run.info.run_id)
        trial.report(1.0, 0)
        if trial.number:
            raise optuna.TrialPruned
        return 1.0
study = optuna.create_study()
study.optimize(objective, n_trials=2)
for trial, run_id in zip(study.trials, ids):
    print(trial.state.name, mlflow.get_run(run_id).info.status)
END
python study.py >out 2>errors || { tail -n 3 errors >&2; changed 'the study does not run'; }
cat out
[ "$(cat out)" = 'COMPLETE FINISHED
PRUNED FAILED' ] || changed "optuna and the tracker: $(tr '\n' ',' <out)"
seen 'PRUNED in the study, FAILED in the tracker, beside the trials that really failed'
