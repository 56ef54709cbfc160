#!/usr/bin/env bash
# Trains one recipe on several tasks with several seeds, one run a core, and evaluates each at its end. Given again, it
# goes on with runs that were stopped and skips those that are done.
set -euo pipefail

usage() {
    cat <<'TEXT'
  benchmarks/many.sh EXP "TASK ..." "SEED ..." [key=value ...]
such as
  benchmarks/many.sh planet_small "cartpole_swingup cup_catch finger_spin" "0 1 2"
  benchmarks/many.sh quickstart - "0 1 2"        -: the recipe has one environment only

The runs are runs/EXP-TASK-seedN (quickstart-seed0), with what they print in runs/EXP-TASK-seedN.log.
Ctrl-C stops and saves all. The same line goes on; with other words, say train.env_steps=1000000, so do runs that were done.

JOBS      runs at a time                                          one for each core
EPISODES  of the evaluation at the end                            10
RUNS      the folder of the runs                                  runs
RECORD    no: without benchmarks/results/<run>.json at the end    yes
PYTHON                                                            .venv/bin/python, else python3
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 3 ]; then usage >&2 && exit 2; fi
exp=$1 tasks=$2 seeds=$3
shift 3
JOBS=${JOBS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)}
EPISODES=${EPISODES:-10}
RUNS=${RUNS:-runs}
RECORD=${RECORD:-yes}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 # two runs with two threads each on two cores slow each other fivefold

say() { printf -- '--- %s\n' "$*"; }

# One run from wherever it is to its end. done.txt says with which words it came there.
one() {
    local name=$1 folder=$RUNS/$1
    shift
    "$PYTHON" train.py "$@" "run=$name" "runs=$RUNS" agent.threads=1
    "$PYTHON" evaluate.py "$folder" --episodes "$EPISODES" --seed 0
    if [ "$RECORD" = yes ]; then "$PYTHON" benchmarks/record.py "$folder"; fi
    printf '%s\n' "$EPISODES episodes of $*" >"$folder/done.txt"
}

mkdir -p "$RUNS"
failed=0
declare -A running=() # process id -> run
stop() {
    trap - INT TERM
    say "stopping: ${running[*]}"
    kill -TERM -- $(printf -- '-%s ' "${!running[@]}") 2>/dev/null || true # each is a group of its own: train.py saves
    wait
    exit 130
}
trap stop INT TERM

# Waits for one of them to end.
reap() {
    local process="" code=0
    wait -n -p process "${!running[@]}" || code=$?
    if [ "$code" -ne 0 ]; then
        failed=$((failed + 1))
        say "${running[$process]}: failed with $code, see $RUNS/${running[$process]}.log"
    else
        say "${running[$process]}: done"
    fi
    unset "running[$process]"
}

set -m # jobs in groups of their own
for seed in $seeds; do # a seed of every task before the next seed
    for task in $tasks; do
        words=("exp=$exp" "seed=$seed" "$@")
        name=$exp-seed$seed
        if [ "$task" != - ]; then
            words+=("env.task=$task")
            name=$exp-$task-seed$seed
        fi
        if [ "$(cat "$RUNS/$name/done.txt" 2>/dev/null)" = "$EPISODES episodes of ${words[*]}" ]; then
            say "$name: is done"
            continue
        fi
        while [ "${#running[@]}" -ge "$JOBS" ]; do reap; done
        # The trap makes the shell wait for train.py, which saves, instead of leaving before it.
        (trap : TERM; set -e; one "$name" "${words[@]}") >>"$RUNS/$name.log" 2>&1 &
        running[$!]=$name
        say "$name: begins or goes on"
    done
done
while [ "${#running[@]}" -gt 0 ]; do reap; done
if [ "$failed" -gt 0 ]; then say "$failed failed; the same line tries them again" && exit 1; fi
