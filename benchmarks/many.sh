#!/usr/bin/env bash
# Trains one recipe on several tasks with several seeds, one run a core or a GPU, and evaluates each at its end: a sweep
# (docs/sweeps.md), whose members have short names. Given again, it goes on with runs that were stopped and skips those
# that are done.
set -euo pipefail

usage() {
    cat <<'TEXT'
  benchmarks/many.sh EXP "TASK ..." "SEED ..." [key=value ...]
such as
  benchmarks/many.sh planet_small "cartpole_swingup cup_catch finger_spin" "0 1 2"
  benchmarks/many.sh quickstart - "0 1 2"        -: the recipe has one environment only

The runs are runs/EXP-TASK-seedN (quickstart-seed0), with what they print in runs/EXP-TASK-seedN.log.
Ctrl-C stops and saves all. The same line goes on; with other words, say train.env_steps=1000000, so do runs that were done.

JOBS      runs at a time                                          one for each GPU, or for each core
EPISODES  of the evaluation at the end                            10
RUNS      the folder of the runs                                  runs
RECORD    no: without benchmarks/results/<run>.json at the end    yes
LAUNCHER  local; or ray, with hydra.launcher.address=...          local
PYTHON                                                            .venv/bin/python, else python3
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 3 ]; then usage >&2 && exit 2; fi
exp=$1 tasks=$2 seeds=$3
shift 3
EPISODES=${EPISODES:-10}
RUNS=${RUNS:-runs}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi

listed() { local IFS=,; printf '%s' "$*"; }
name="{exp}-{env.task}-seed{seed}" task=("env.task=$(listed $tasks)")
if [ "$tasks" = - ]; then name="{exp}-seed{seed}" task=(); fi

"$PYTHON" train.py -m "hydra/launcher=${LAUNCHER:-local}" "hydra.launcher.jobs=${JOBS:-null}" \
    "hydra.launcher.episodes=$EPISODES" "run=$name" "runs=$RUNS" "exp=$exp" "seed=$(listed $seeds)" "$@" "${task[@]}" &
trap 'kill -TERM $! 2>/dev/null || true' INT TERM # it saves all, and says so
code=0
wait $! || code=$?
while kill -0 $! 2>/dev/null; do wait $! || code=$?; done

if [ "${RECORD:-yes}" = yes ]; then
    for run in $(for seed in $seeds; do for one in $tasks; do printf '%s ' "$exp-${one}-seed$seed"; done; done); do
        run=${run/---seed/-seed}
        if [ "$RUNS/$run/done.txt" -nt "benchmarks/results/$run.json" ]; then "$PYTHON" benchmarks/record.py "$RUNS/$run"; fi
    done
fi
exit "$code"
