#!/usr/bin/env bash
# Make the environment, or complete one that exists: what `make setup` runs.
#
#     tools/setup/setup_environment.sh PYTHON VENV [REQUIREMENTS]
#
# An environment made here gets the pinned versions of REQUIREMENTS, and on the Linux and Python that
# they were tested with the very files whose hashes stand in the .lock beside it. One that somebody else made
# keeps every version that setup.py allows: pinning would replace a torch built for that machine's GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1 venv=$2 requirements=${3:-}
py=$venv/bin/python
mark=$venv/.made-by-svit_det

fail() {
    echo "setup: $*" >&2
    exit 1
}

# On a terminal pip shows its progress bars; in a log a line per download and build is enough.
pip_install() {
    local pip=("$py" -m pip --disable-pip-version-check install "$@")
    if [ -t 1 ]; then
        "${pip[@]}"
    else
        "${pip[@]}" | { grep --line-buffered -E '^ *(Downloading|Building|Installing|Success)' || :; }
    fi
}

"$py" --version >/dev/null 2>&1 && base=$py || base=$python
command -v "$base" >/dev/null || fail "there is no $base here; name a Python with PYTHON=..."
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "Python 3.10 or newer is needed and $base is $("$base" --version 2>&1);" \
        "name a newer one with PYTHON=python3.11 (and VENV=, if the old one is in $venv)"

no_venv="(on Debian, Ubuntu: apt-get install python3-venv)"
if ! "$py" --version >/dev/null 2>&1; then
    echo "[1/4] Making the environment $venv with $("$python" --version)"
    mkdir -p "$venv" && touch "$mark" # first, so that one half-made is known as ours as well
    "$python" -m venv "$venv" || fail "$python cannot make an environment $no_venv"
else
    echo "[1/4] Using the environment $venv"
    "$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null ||
        fail "the environment $venv has no pip, and ensurepip cannot bring it $no_venv"
fi

if [ -n "$requirements" ] && [ -e "$mark" ]; then
    echo "[2/4] Installing $requirements: some minutes and 6 GB, most of it torch"
    lock=${requirements%.txt}.lock
    here=$("$py" -c 'import platform, sys; print(*sys.version_info[:2], platform.platform())')
    if [ -f "$lock" ] && [[ $here == "3 11 Linux-"*x86_64*glibc* ]]; then
        # Every file by its hash, all of them listed. What source packages are built with comes first:
        # pip would otherwise fetch it anew, by name alone.
        builders=$(mktemp)
        awk '/^[^ ]/ { on = /^(setuptools|wheel)==/ } on' "$lock" >"$builders"
        pip_install --no-deps --require-hashes -r "$builders" &&
            pip_install --no-deps --no-build-isolation --require-hashes -r "$lock"
    else
        pip_install -r "$requirements"
    fi ||
        fail "installing $requirements failed (is there a network? The versions were tested with" \
            "Python 3.11; with another one, make setup REQUIREMENTS= takes whatever fits)"
else
    echo "[2/4] Installing what is missing or older than setup.py asks for"
    # First what the source packages among the requirements are built with.
    pip_install "setuptools<82" wheel || fail "installing setuptools failed (is there a network?)"
    opencv=()
    "$py" -c 'import cv2' 2>/dev/null || opencv=(opencv-python-headless)
    pip_install --no-build-isolation -e ".[data,test,style]" ${opencv[@]+"${opencv[@]}"} ||
        fail "installing the requirements of setup.py failed (is there a network?)"
fi

echo "[3/4] Looking for detectron2"
"$py" tools/setup/install_detectron2.py

echo "[4/4] Installing svit_det, editable"
"$py" -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e . ||
    fail "installing svit_det itself failed"
