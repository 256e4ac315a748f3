#!/usr/bin/env bash
# Builds, tests and measures everything on a machine with a GPU, in eight minutes at most.
#
#   benchmarks/gpu.sh DIR          results go into DIR; a second run replaces them
#   benchmarks/gpu.sh --cpu DIR    a rehearsal where there is no GPU: every stage on the CPU, tiny, no numbers
#
# Needs Python with torch (PYTHON names it, else python3) and, to build, cmake, a C++ compiler and nvcc. It installs
# nothing and fetches nothing; it builds into build/ and fastgen/. What else is missing is said, and its stage skipped.
# A stage that fails, or takes longer than its time, does not stop the others.
#
# DIR: summary.json (every stage's status, exit code and seconds), stages.log (what they printed), tests.xml,
# kernels.json, roofline.png, sampling.json, models.json, pixel_rnn.json. Results are written again after every case.
# Exit code: 0 where no stage failed, 1 where one did, 2 where nothing could start.
set -uo pipefail

usage() { sed -n '2,15s/^# \{0,1\}//p' "$0"; }
die() { echo "gpu.sh: $1" >&2; exit 2; }

rehearsal=false
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  --cpu) rehearsal=true; shift ;;
esac
[ $# -eq 1 ] || die "expected one folder for the results, got $# arguments; see --help"

deadline=465 # seconds; the last stages take what the others left
$rehearsal && deadline=3600 # nothing is measured, and the machine may be busy
mkdir -p "$1" || die "the folder $1 cannot be made"
results=$(cd "$1" && pwd)
python=$(command -v "${PYTHON:-python3}") || die "${PYTHON:-python3} was not found; PYTHON names another"
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
PATH="$(dirname "$python"):$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" # cmake and ninja from pip stand beside python
export PATH PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$results"/{summary.json,stages.log,tests.xml,kernels.json,roofline.png,sampling.json,models.json,pixel_rnn.json}

machine=$("$python" -c '
import sys, torch
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
    sys.exit(f"expected torch 2.11 or later, got {torch.__version__}")
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")') || die "torch cannot be used"
if [ "$machine" = "no GPU" ] && ! $rehearsal; then
  die "torch finds no CUDA device on this machine; --cpu rehearses without one"
fi

missing=()
need() { command -v "$1" >/dev/null || missing+=("$1"); }
module() { "$python" -c "import $1" 2>/dev/null || { missing+=("$1 (pip install $1)") && false; }; }

# ---- stages: each leaves <number>-<name>.json and .log in $work, from which the summary is made

count=0
record() { # name status rc seconds limit
  count=$((count + 1))
  printf '{"stage": "%s", "status": "%s", "rc": %d, "seconds": %d, "limit": %d}' "$@" \
    >"$work/$(printf %02d "$count")-$1.json"
  printf '%-10s %-9s rc %-3d %4d s of %d\n' "$@"
  summarise
}

summarise() {
  local stages
  stages=$(for each in "$work"/*.json; do printf ',\n  %s' "$(cat "$each")"; done)
  local absent=""
  for each in "${missing[@]+"${missing[@]}"}"; do absent+=", \"$each\""; done
  printf '{"machine": "%s", "rehearsal": %s, "seconds": %d, "missing": [%s],\n "stages": [%s\n ]}\n' \
    "${machine//\"/}" "$rehearsal" "$SECONDS" "${absent#, }" "${stages#,}" >"$results/summary.json"
}

run() { # name limit command...: runs it, and leaves its exit code and seconds
  local name=$1 limit=$2 begin=$SECONDS left=$((deadline - SECONDS))
  shift 2
  ! $rehearsal || limit=$((4 * limit))
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 3 ]; then
    echo "no time was left for it" >"$work/$name.log"
    echo "124 0 $limit" >"$work/$name.done"
    return
  fi
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null
  echo "$? $((SECONDS - begin)) $limit" >"$work/$name.done"
}

finish() { # name: of a stage that was run
  local rc seconds limit status=passed
  read -r rc seconds limit <"$work/$1.done"
  [ "$rc" -eq 0 ] || status=failed
  [ "$rc" -ne 124 ] && [ "$rc" -ne 137 ] || status="timed out"
  { echo "==== $1: $status, exit code $rc, $seconds s"; cat "$work/$1.log"; echo; } >>"$results/stages.log"
  record "$1" "$status" "$rc" "$seconds" "$limit"
}

stage() { run "$@"; finish "$1"; }

skip() { # name reason
  printf '==== %s: skipped: %s\n\n' "$1" "$2" >>"$results/stages.log"
  echo "$1: $2"
  record "$1" skipped 0 0 0
}

# ---- what there is

for tool in cmake c++ git; do need $tool; done
$rehearsal || need nvcc
$rehearsal || need compute-sanitizer
module pytest && have_pytest=true || have_pytest=false
module matplotlib && have_matplotlib=true || have_matplotlib=false
[ ${#missing[@]} -eq 0 ] || echo "missing here: ${missing[*]}"

# ---- build, in place

build() {
  local folder=build/gpu prefix=$PWD/fastgen options=(-DFASTGEN_CUDA=1 -DCMAKE_BUILD_TYPE=Release)
  if $rehearsal; then # leaves the package's own kernels alone
    folder=build/rehearsal prefix=$work/prefix options=(-DFASTGEN_CUDA=0 -DCMAKE_BUILD_TYPE=Debug)
  else
    options+=("-DFASTGEN_CUDA_ARCHS=$("$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}{chr(97) if major >= 9 else str()}")')") # 9.0 is 90a: the instructions that only it has
  fi
  ! command -v ninja >/dev/null || options+=(-G Ninja)
  cmake -S . -B "$folder" "-DPython3_EXECUTABLE=$python" "${options[@]}" &&
    cmake --build "$folder" -j "$(nproc)" && cmake --install "$folder" --prefix "$prefix"
}
export -f build
export rehearsal work python

if command -v cmake >/dev/null; then
  stage build 110 bash -c build
else
  skip build "cmake is missing: pip install cmake ninja"
fi
stage info 30 "$python" -m fastgen info

# ---- correctness: the tests, and beside them the sanitizers, which need no quiet machine

sanitize() { # tool: in the background; memory comes straight from CUDA, so that overruns are seen
  run "$1" 150 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 "$python" tests/gpu_smoke.py &
}
sanitizers=()
if $rehearsal; then
  skip memcheck "needs a GPU"
  skip racecheck "needs a GPU"
elif [ ! -e tests/gpu_smoke.py ] || ! command -v compute-sanitizer >/dev/null; then
  skip memcheck "needs compute-sanitizer and tests/gpu_smoke.py"
  skip racecheck "needs compute-sanitizer and tests/gpu_smoke.py"
else
  sanitizers=(memcheck racecheck)
  for tool in "${sanitizers[@]}"; do sanitize "$tool"; done
fi
tests=(-m gpu)
$rehearsal && tests=(tests/test_gated_activation.py -k parity)
"$python" -c 'import xdist' 2>/dev/null && ! $rehearsal && tests+=(-n 4)
if $have_pytest; then
  stage tests 150 "$python" -m pytest -q "${tests[@]}" --junitxml "$results/tests.xml"
else
  skip tests "pytest is missing"
fi
wait
for tool in "${sanitizers[@]+"${sanitizers[@]}"}"; do finish "$tool"; done

# ---- speed, alone on the machine; what begins late leaves time for what comes after it

how=(--device cuda)
$rehearsal && how=(--device cpu --quick)
bench() { # suite, seconds to leave for later stages
  local time=$((deadline - SECONDS - $2))
  stage "$1" "$time" "$python" -m fastgen bench --suite "$1" "${how[@]}" --json "$results/$1.json" \
    --budget "$((time > 40 ? time - 25 : time / 3))"
}
bench kernels 80
if ! $have_matplotlib; then
  skip roofline "matplotlib is missing"
elif [ -e "$results/kernels.json" ]; then
  stage roofline 20 "$python" benchmarks/roofline.py "$results/kernels.json" "$results/roofline.png"
else
  skip roofline "there are no results to draw"
fi
bench sampling 45
bench models 20
bench pixel_rnn 0

! grep -qE '"status": "(failed|timed out)"' "$results/summary.json"
