#!/usr/bin/env bash
# The figures and runs that need a GPU, on a bare machine without network: an NVIDIA GPU, Python 3.12 with torch 2.11
# and torchvision 0.26 (benchmarks/wheels.py says what else is taken to be there). Every command takes less than ten
# minutes and can be given again.
set -euo pipefail

usage() {
    cat <<'TEXT'
On a machine with network, before every trip (what is there already is not fetched again):
  benchmarks/gpu.sh wheels                       .whl/ and .gl/: what the GPU machine lacks; carry them with the tree
On the GPU machine:
  benchmarks/gpu.sh setup                        installs what was carried, says what it found; first of all
  benchmarks/gpu.sh test                         the tests of what runs on the GPU, and a run there
  benchmarks/gpu.sh speed                        $OUT/speed-<gpu>.json and dreamer-speed-<gpu>.json
  benchmarks/gpu.sh train TASK SEED [MINUTES]    starts a run or goes on with it, for 8 minutes; then record and pack
  benchmarks/gpu.sh evaluate TASK SEED [EPISODES]  10 noise-free episodes of its newest checkpoint; then record
  benchmarks/gpu.sh many EXP "TASK ..." "SEED ..." [MINUTES] [key=value ...]
                                                 small runs side by side, JOBS at a time, for 7 minutes; the same line
                                                 goes on with them. Records and agents of those that are done in $OUT
  benchmarks/gpu.sh pack TASK SEED [FIRST]       the run in pieces of 14 MiB, of which so many come to $OUT as fit
On either:
  benchmarks/gpu.sh unpack FOLDER                takes pieces and records in; the last missing one restores the run

One line for a machine that is lent for ten minutes, and again for the next ten:
  benchmarks/gpu.sh setup && benchmarks/gpu.sh train cartpole_swingup 0 8
Another machine goes on where it ended, once it was given the pieces (if need be in several turns):
  benchmarks/gpu.sh setup && benchmarks/gpu.sh unpack out && benchmarks/gpu.sh train cartpole_swingup 0 8

OUT     what is brought back                                   out
PLACE   where things are installed, outside the repository     /tmp/worldmodel-gpu
PIECES  of 14 MiB that $OUT takes at a time                    4
RECIPE  of a run that starts                                   exp=planet env=dmc env.task=TASK
JOBS    runs of `many` at a time                               8
PYTHON                                                         .venv/bin/python, else python3
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=$(realpath -m "${OUT:-out}")
PLACE=$(realpath -m "${PLACE:-/tmp/worldmodel-gpu}")
PIECES=${PIECES:-4}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
# shellcheck source=/dev/null
if [ -f "$PLACE/env.sh" ]; then . "$PLACE/env.sh"; fi
export PYTHONUNBUFFERED=1

say() { printf -- '--- %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# ---- what is carried ----

wheels() {
    local lists options
    "$PYTHON" benchmarks/wheels.py .whl
    if ! command -v apt-get >/dev/null; then
        say "there is no apt-get here: .gl/ stays empty, and the GPU machine must have libEGL itself"
    elif ! ls .gl/libegl1_*.deb >/dev/null 2>&1; then
        mkdir -p .gl
        lists=$(mktemp -d)
        mkdir "$lists/partial"
        options=(-qq -oAPT::Architecture=amd64 -oAPT::Architectures=amd64 "-oDir::State::Lists=$lists")
        apt-get "${options[@]}" update
        (cd .gl && apt-get "${options[@]}" download libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2)
        rm -r "$lists"
    fi
    du -shc .whl .gl 2>/dev/null || true
}

# ---- the GPU machine ----

setup() {
    local stamp site=$PLACE/site vendor
    ls .whl/*.whl >/dev/null 2>&1 || die ".whl/ is empty: where there is a network, benchmarks/gpu.sh wheels"
    stamp=$(cat .whl/*.whl | cksum)
    if [ "$(cat "$PLACE/installed" 2>/dev/null)" != "$stamp" ]; then
        rm -rf "$site"
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
        printf '%s\n' "$stamp" >"$PLACE/installed"
    fi
    if ! ldconfig -p | grep 'libEGL\.so\.1' >/dev/null; then
        ls .gl/*.deb >/dev/null 2>&1 || die "no libEGL here, and .gl/ is empty: apt-get install libegl1"
        for package in .gl/*.deb; do dpkg -x "$package" /; done # needs root, as apt-get would
        ldconfig
    fi
    {
        # shellcheck disable=SC2016
        printf 'export PYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH} MUJOCO_GL=egl PYOPENGL_PLATFORM=egl\n' "$site"
        printf 'export WORLDMODEL_COMMIT=%q\n' "$(carried_commit)"
        vendor=$(egl_vendor)
        if [ -n "$vendor" ]; then printf 'export __EGL_VENDOR_LIBRARY_FILENAMES=%q\n' "$vendor"; fi
    } >"$PLACE/env.sh"
    # shellcheck source=/dev/null
    . "$PLACE/env.sh"
    found
}

# The file that leads to the driver's EGL, without which Mesa's is asked first, or nobody.
egl_vendor() {
    local vendor
    for vendor in {/usr/share,/etc,/usr/local/nvidia/share}/glvnd/egl_vendor.d/*nvidia*.json; do
        if [ -f "$vendor" ]; then
            printf '%s' "$vendor"
            return
        fi
    done
}

# The commit that `wheels` saw, with a + if the code has changed since.
carried_commit() {
    local commit digest
    read -r commit digest <.whl/commit
    if [ "$digest" != "$("$PYTHON" benchmarks/wheels.py --digest)" ]; then commit=${commit%+}+; fi
    printf '%s' "$commit"
}

found() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || say "no nvidia-smi"
    "$PYTHON" - <<'CODE'
import platform, cv2, gymnasium, hydra, mujoco, numpy, pydantic, torch, torchvision
print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
      f"numpy {numpy.__version__}, OpenCV {cv2.__version__}, MuJoCo {mujoco.__version__}, "
      f"gymnasium {gymnasium.__version__}, hydra {hydra.__version__}, pydantic {pydantic.__version__}")
print("torch sees", torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
context = mujoco.GLContext(64, 64)
context.make_current()
from OpenGL import GL
print("EGL draws with", GL.glGetString(GL.GL_RENDERER).decode())
context.free()
CODE
    say "commit ${WORLDMODEL_COMMIT:-of the repository}"
}

# Warnings are errors in the tests; other versions than the lock's warn of other things, so here they are shown.
tests() {
    local files
    mapfile -t files < <({
        grep -l cuda tests/test_*.py || true
        printf 'tests/test_%s.py\n' agent contract_actors contract_models envs_dmc planners precision rssm
    } | sort -u)
    timeout 480 "$PYTHON" -m pytest -q -m "not slow" -W default -p no:cacheprovider "${files[@]}"
    rm -rf "$PLACE/smoke"
    for steps in 4000 6000; do # the second time it resumes
        "$PYTHON" train.py exp=smoke env=dmc "runs=$PLACE" run=smoke "train.env_steps=$steps" "env.size=[16,16]"
    done
    "$PYTHON" evaluate.py "$PLACE/smoke" --episodes 2
}

gpu() {
    { nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo cpu; } | head -n 1 | tr 'A-Z ' 'a-z-'
}

speed() {
    local file
    file=speed-$(gpu).json # relative, because the command is part of what is recorded
    timeout 280 "$PYTHON" benchmarks/speed.py --json "$file"
    timeout 280 "$PYTHON" benchmarks/dreamer_speed.py --repeats 10 --json "dreamer-$file"
    mv "$file" "dreamer-$file" "$OUT"
}

# ---- runs ----

# Sets recipe and run from TASK SEED.
named() {
    [ $# -ge 2 ] || { usage >&2 && exit 2; }
    recipe=${RECIPE:-exp=planet env=dmc env.task=$1}
    [[ " $recipe " =~ \ exp=([a-z_]+)\  ]] || die "RECIPE names no exp=..."
    run=${BASH_REMATCH[1]}-$1-seed$2
}

train() {
    local recipe run code=0 words began=$SECONDS
    named "$@"
    read -r -a words <<<"$recipe seed=$2"
    if [ -f "runs/$run/run.json" ]; then words=(); fi
    # SIGTERM makes it save and leave. --foreground: to train.py alone, the environments' workers are its own affair.
    timeout --foreground --kill-after=60 "${3:-8}m" "$PYTHON" train.py "${words[@]}" "run=$run" || code=$?
    case $code in
        0) say "$run: finished" ;;
        124) say "$run: the time is over; the same line goes on with it" ;;
        *) die "train.py ended with $code" ;;
    esac
    [ -f "runs/$run/run.json" ] || die "the time was over before the run began"
    printf '%s %s\n' "$((SECONDS - began))" "$("$PYTHON" benchmarks/record.py --hardware)" >>"runs/$run/trained.txt"
    record "$run"
    pack "$1" "$2"
}

many() {
    [ $# -ge 3 ] || { usage >&2 && exit 2; }
    local exp=$1 tasks=$2 seeds=$3 minutes=${4:-7} code=0 run
    shift "$(($# < 4 ? 3 : 4))"
    # It saves all runs, and records those that are done, which takes some seconds each.
    JOBS=${JOBS:-8} PYTHON=$PYTHON timeout --foreground --kill-after=120 "${minutes}m" \
        benchmarks/many.sh "$exp" "$tasks" "$seeds" "$@" || code=$?
    case $code in
        0) say "all are finished" ;;
        124) say "the time is over; the same line goes on with them" ;;
        *) die "many.sh ended with $code" ;;
    esac
    for run in "runs/$exp"-*; do
        if [ -f "$run/done.txt" ]; then
            run=${run#runs/}
            results "$run"
            if [ ! -f "$OUT/$run.agent" ]; then "$PYTHON" export.py "runs/$run" "$OUT/$run.agent"; fi
        fi
    done
}

evaluate() {
    local recipe run
    named "$@"
    timeout 500 "$PYTHON" evaluate.py "runs/$run" --episodes "${3:-10}" --seed "$2"
    record "$run"
}

# The evidence of a run in one file, so that it comes back even where the run itself is too large.
record() {
    "$PYTHON" benchmarks/record.py "runs/$1"
    results "$1"
}

results() {
    (cd benchmarks/results && shopt -s nullglob && tar -cf "$OUT/$1-results.tar" "$1.json" "$1"-*)
}

# The newest checkpoint, all episodes, metrics and pictures; TensorBoard's curves over updates stay, for their films are
# large. FIRST is the piece to begin with; 0 packs afresh.
pack() {
    local recipe run first=${3:-0} folder checkpoints checkpoint all pieces without size
    named "$@"
    folder=$PLACE/packed/$run
    if [ "$first" = 0 ]; then
        rm -rf "$folder" "$OUT/$run".tar.*
        mkdir -p "$folder"
        without=("--exclude=$run/by_updates" "--exclude=$run/lock")
        checkpoints=("runs/$run/checkpoints"/step-*)
        for checkpoint in "${checkpoints[@]:0:${#checkpoints[@]}-1}"; do
            without+=("--exclude=${checkpoint#runs/}")
        done
        tar -cf - -C runs "${without[@]}" "$run" | split -b 14M -d -a 3 - "$folder/$run.tar."
        (cd "$folder" && sha256sum "$run".tar.* >"$run.sha256")
    fi
    all=("$folder/$run".tar.*)
    pieces=("${all[@]:first:PIECES}")
    cp "$folder/$run.sha256" "${pieces[@]}" "$OUT"
    size=$(du -shc "${all[@]}" | tail -n 1 | cut -f 1)
    say "$run: ${#all[@]} pieces, $size; $OUT took ${#pieces[@]} from number $first"
    first=$((first + PIECES))
    if [ "$first" -lt "${#all[@]}" ]; then say "bring them back, then: benchmarks/gpu.sh pack $1 $2 $first"; fi
}

unpack() {
    local folder=${1:-$OUT} index run stage piece missing
    for index in "$folder"/*.sha256; do
        [ -f "$index" ] || continue
        run=$(basename "$index" .sha256)
        stage=$PLACE/pieces/$run
        if [ -e "runs/$run" ]; then
            say "runs/$run is there already and stays as it is; to take the packed one, move it away"
            continue
        fi
        (cd "$folder" && sha256sum --check --quiet --ignore-missing "$run.sha256") ||
            die "$folder: pieces of $run are damaged, or of another packing"
        mkdir -p "$stage"
        cmp -s "$index" "$stage/$run.sha256" || rm -f "$stage"/*
        cp "$index" "$folder/$run".tar.* "$stage"
        missing=()
        while read -r _ piece; do [ -f "$stage/$piece" ] || missing+=("$piece"); done <"$index"
        if [ ${#missing[@]} -gt 0 ]; then
            say "$run: still missing ${missing[*]}"
            continue
        fi
        mkdir -p runs "$stage/restored"
        cat "$stage/$run".tar.* | tar -xf - --no-same-owner -C "$stage/restored"
        mv "$stage/restored/$run" runs/
        rm -r "$stage"
        say "runs/$run is restored"
    done
    for index in "$folder"/*-results.tar; do
        if [ -f "$index" ]; then tar -xf "$index" --no-same-owner -C benchmarks/results; fi
    done
}

main() {
    local command=${1:-}
    shift || true
    case $command in
        wheels | setup | speed | train | many | evaluate | pack | unpack) ;;
        test) command=tests ;;
        *) usage && exit 2 ;;
    esac
    mkdir -p "$OUT" "$PLACE"
    "$command" "$@"
}
main "$@"
