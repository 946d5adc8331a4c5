# Sourced by the scripts beside it. Makes .venv in the repository root hold this package and its dependencies.
#
#   prepare [extra]    install the package, with an extra if named; does nothing if that is done already
#
# Environment: PYTHON (default python3) makes the virtual environment; REASON_NO_CONSTRAINTS=1 ignores constraints.txt.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$root"
venv="$root/.venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '==> %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Everything that decides what is installed and where.
fingerprint() {
  "$venv/bin/python" -c '
import hashlib, pathlib, sys
parts = [pathlib.Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
parts += [repr(sys.version_info[:3]).encode()] + [argument.encode() for argument in sys.argv[1:]]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())' "$root" "${REASON_NO_CONSTRAINTS:-0}"
}

venv_works() {
  "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

make_venv() {
  local python="${PYTHON:-python3}" problem
  command -v "$python" >/dev/null || die "'$python' not found. Install Python 3.10 or newer, or set PYTHON=/path/to/python3."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "'$python' is $("$python" -V 2>&1), but Python 3.10 or newer is needed. Set PYTHON=/path/to/python3 to use another one."
  [ ! -e "$venv" ] || say ".venv is incomplete or too old: making it anew"
  say "making .venv with $("$python" -V 2>&1)"
  rm -rf "$venv"
  if ! problem="$("$python" -m venv "$venv" 2>&1)"; then
    rm -rf "$venv"
    printf '%s\n' "$problem" >&2
    die "'$python -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv"
  fi
}

install_package() { # $1: extra or nothing
  local arguments=(-qq --no-input --editable ".${1:+[$1]}")
  [ "${REASON_NO_CONSTRAINTS:-0}" = 1 ] || arguments+=(--constraint constraints.txt)
  say "installing reason-toolkit${1:+[$1]} (the first time takes minutes: torch is large)"
  "$venv/bin/python" -m pip install "${arguments[@]}" </dev/null
}

load_all() { "$venv/bin/python" -c 'import gguf, math_verify, numpy, reason, safetensors, scipy, torch, transformers'; }

prepare() {
  local extra="${1:-}" stamp stamps
  venv_works || make_venv
  stamp="$venv/.installed-${extra:-core}"
  stamps=("$stamp" "$venv/.installed-dev") # dev holds all of core
  if grep -qsxF "$(fingerprint)" "${stamps[@]}"; then
    return
  fi
  rm -f "$venv"/.installed-*
  install_package "$extra" || die "pip could not install the dependencies; its message is above. Running this again goes on."
  if ! load_all >/dev/null 2>&1; then # an earlier run was stopped in the middle of an installation
    say "what is in .venv does not load"
    make_venv
    install_package "$extra" || die "pip could not install the dependencies; its message is above."
    load_all >&2 || die "the installed packages do not load; the reason is above."
  fi
  fingerprint >"$stamp"
}
