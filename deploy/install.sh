#!/usr/bin/env bash
# onecard as a service, on a bare Ubuntu, Debian or WSL2:   sudo deploy/install.sh
#
# Checks the machine, installs into /opt/onecard, makes the user `onecard`, fetches the model, sets up the service and waits
# until it answers. Asks nothing. Run again it changes only what is not as it should be; after an update of this checkout
# it installs the new version beside the old one and switches. `--undo` takes everything away but settings, models and logs.
#
# Without network: `--make-bundle FILE` elsewhere, then `--bundle FILE` here, or the script in the unpacked bundle.
set -euo pipefail

SOURCE="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)"
# The bundle that this script lies in, or is told of; empty where there is none.
BUNDLE="$(cd "$SOURCE/.." && pwd)"
[[ -f $BUNDLE/bundle.json ]] || BUNDLE=
readonly PREFIX=/opt/onecard SETTINGS=/etc/onecard STATE=/var/lib/onecard CACHE=/var/cache/onecard UNITS=/etc/systemd/system
readonly UNIT_FILES=(onecard.service onecard-suspend.service)
readonly COMMAND=/usr/local/bin/onecard

profile=
action=install
changed=0

usage() {
  cat <<'TEXT'
Usage: install.sh [--profile NAME] [--bundle FILE]
       install.sh --profile NAME --make-bundle FILE
       install.sh --undo [--purge]
  --profile NAME      the card: auto (the GPU found, else the CPU), cpu, or a name of configs/profiles/
                      [that of the service's settings, where it has some; else the bundle's; else auto]
  --bundle FILE       install from this offline bundle (an archive, or a folder that it was unpacked to), without network
  --make-bundle FILE  make it, for the card of --profile: on any machine with network and the same Python; no root needed
  --undo              take away service, program and user; keep settings, models and logs
  --purge             with --undo: settings, models and logs too
TEXT
}

say() { printf '%s\n' "$*"; }
did() { changed=1; say "  $*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
has_systemd() { [[ -d /run/systemd/system ]]; }

# The profile that the service's settings name; empty where they name none.
settings_profile() {
  # What follows ` -- ` is vLLM's.
  sed --quiet --regexp-extended "s/ -- .*//; s/^ONECARD_ARGS=(.*[ \"'])?(--profile[= ]|-p) *([^ \"']+).*/\3/p" \
    "$SETTINGS/onecard.env" 2>/dev/null | tail --lines 1 || true
}

# Runs a command as the service's user, with the folders that the unit gives it.
as_onecard() {
  setpriv --reuid onecard --regid onecard --clear-groups env \
    HOME="$STATE" ONECARD_STATE_DIR="$STATE/state" XDG_CACHE_HOME="$CACHE" HF_HOME="$CACHE/huggingface" "$@"
}

check_machine() {
  [[ $EUID -eq 0 ]] || fail "it writes to $PREFIX and $UNITS, so it must be run as root: sudo $0"
  [[ $(uname -s) == Linux ]] || fail "onecard runs on Linux, and on Windows inside WSL2."
  # GPU, driver, disk and Python's version are looked at by serving.bootstrap, which says what to do about each.
  local missing=()
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
  # vLLM's CPU build is linked against it; Triton builds its launchers with a compiler.
  # Not `grep -q`: it ends at the first match, and ldconfig, which has more to say than a pipe holds, fails then.
  ldconfig -p | grep 'libnuma\.so\.1' >/dev/null || missing+=(libnuma1)
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  if [[ ${#missing[@]} -gt 0 ]]; then
    [[ -z $BUNDLE ]] || fail "these are needed, and are no part of a bundle: ${missing[*]} (Debian's names; Ubuntu's \
installation medium has them). Install them, and run this again."
    command -v apt-get >/dev/null || fail "these are needed: ${missing[*]} (Debian's names). Install them, and run this again."
    did "installing ${missing[*]}"
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qy "${missing[@]}" >/dev/null
  fi
}

make_user() {
  if ! getent passwd onecard >/dev/null; then
    useradd --system --user-group --home-dir "$STATE" --shell /usr/sbin/nologin onecard
    did "made the user onecard"
  fi
  install --directory --owner onecard --group onecard --mode 0750 "$STATE" "$CACHE"
}

# Unpacks the bundle where it is an archive, and goes on with what lies in it.
open_bundle() {
  local given=$1
  if [[ -f $given ]]; then
    mkdir -p "$PREFIX"
    unpacked=$(mktemp --directory --tmpdir="$PREFIX" .bundle-XXXXXX)
    trap 'rm -rf "$unpacked"' EXIT
    say "Unpacking $given"
    tar --extract --no-same-owner --file "$given" --directory "$unpacked" || fail "$given cannot be unpacked."
    given=$(echo "$unpacked"/*)
  fi
  [[ -f $given/bundle.json ]] || fail "there is no bundle in $1; --make-bundle makes one."
  BUNDLE=$(cd "$given" && pwd)
  SOURCE=$BUNDLE/source
}

# A version is its files: the same files are installed once, beside those before (serving/setup/releases.py), from the
# bundle where the source lies in one. Sets `name` and `program`, which the steps after it use.
install_program() {
  name=$(cd "$SOURCE" && PYTHONDONTWRITEBYTECODE=1 python3 -m serving.bootstrap --profile "$profile" --into "$PREFIX")
  program=$PREFIX/releases/$name/.venv/bin/onecard
}

# After everything that may fail or be interrupted: what is switched to is what the service is restarted with.
switch_program() {
  local before
  before=$(readlink "$PREFIX/current" || true)
  if [[ $before != "releases/$name" ]]; then
    mkdir -p "$PREFIX/bin"
    [[ -z $before ]] || ln --symbolic --force --no-dereference "$before" "$PREFIX/previous"
    ln --symbolic --force --no-dereference "releases/$name" "$PREFIX/current"
    ln --symbolic --force ../current/.venv/bin/onecard "$PREFIX/bin/onecard"
    ln --symbolic --force current/README.md "$PREFIX/README.md"
    did "switched to version $name"
  fi
  [[ -e $COMMAND ]] || { ln --symbolic "$PREFIX/bin/onecard" "$COMMAND" && did "made the command onecard"; }
}

write_settings() {
  mkdir -p "$SETTINGS"
  if [[ ! -f $SETTINGS/onecard.env ]]; then
    cat >"$SETTINGS/onecard.env" <<TEXT
# Settings of the service; after a change: systemctl restart onecard
# Version of this file: 1
ONECARD_ARGS=--profile $profile
# To open it to others than this machine: a key, and the address.
#ONECARD_API_KEY=a-long-random-word
#ONECARD_ARGS=--profile $profile --host 0.0.0.0
TEXT
    chgrp onecard "$SETTINGS/onecard.env" && chmod 0640 "$SETTINGS/onecard.env"
    did "wrote $SETTINGS/onecard.env"
  fi
}

fetch_model() {
  local model
  if [[ -n $BUNDLE && -d $BUNDLE/model/hub ]]; then
    say "Copying the model"
    # Not what is here already.
    cp --recursive --no-clobber --no-dereference "$BUNDLE/model/." "$CACHE/huggingface"
    chown --recursive onecard:onecard "$CACHE/huggingface"
  fi
  model=$("$program" profiles --json | python3 -c '
import json, sys
wanted, known = sys.argv[1], json.load(sys.stdin)
profiles = known["profiles"]
print(profiles[wanted]["model"] if wanted in profiles else "")' "$profile")
  # With `auto` the service finds the card, its profile and its model by itself, and fetches it at its first start.
  if [[ -n $model ]]; then
    say "Model: $model"
    as_onecard "$program" pull "$model" >/dev/null || fail "the model could not be fetched; run this again to go on."
  fi
}

install_service() {
  local unit
  for unit in "${UNIT_FILES[@]}"; do
    if ! cmp --silent "$SOURCE/deploy/systemd/$unit" "$UNITS/$unit"; then
      install -D --mode 0644 "$SOURCE/deploy/systemd/$unit" "$UNITS/$unit"
      did "installed $UNITS/$unit"
    fi
  done
  if ! has_systemd; then
    say "There is no systemd here (WSL2: \`systemd=true\` in /etc/wsl.conf), so nothing starts it by itself. By hand: onecard serve"
    return
  fi
  # Also where an earlier run ended before it ran: it failed to start then, or nobody waited for it.
  if [[ $changed -eq 1 ]] || ! systemctl is-active --quiet onecard; then
    # A start that is under way is waited for: begun anew, it would compile again.
    local verb=start
    [[ $changed -eq 0 ]] || verb=restart
    changed=1
    systemctl daemon-reload
    systemctl enable --quiet "${UNIT_FILES[@]}"
    # Else systemd refuses one that has failed five times, however well it is mended.
    systemctl reset-failed onecard 2>/dev/null || true
    say "Starting. A first start compiles kernels and takes minutes; \`journalctl -fu onecard\` shows its steps."
    systemctl "$verb" onecard || fail "it does not start; its reasons: journalctl -u onecard -n 50. Then run this again."
  fi
}

undo() {
  local purge=$1
  if has_systemd; then systemctl disable --quiet --now "${UNIT_FILES[@]}" 2>/dev/null || true; fi
  rm -f "${UNIT_FILES[@]/#/$UNITS/}"
  if has_systemd; then systemctl daemon-reload; fi
  [[ $(readlink "$COMMAND" || true) != "$PREFIX/bin/onecard" ]] || rm -f "$COMMAND"
  say "Removing $PREFIX"
  rm -rf "$PREFIX"
  if [[ $purge -eq 1 ]]; then rm -rf "$SETTINGS" "$STATE" "$CACHE"; fi
  if getent passwd onecard >/dev/null; then userdel onecard; fi
  say "onecard is gone$([[ $purge -eq 1 ]] || printf '; %s, %s and %s are kept (--purge)' "$SETTINGS" "$STATE" "$CACHE")."
}

purge=0
bundle=
while [[ $# -gt 0 ]]; do
  case $1 in
    --profile) [[ $# -gt 1 ]] || fail "--profile needs a name"; profile=$2; shift ;;
    --bundle) [[ $# -gt 1 ]] || fail "--bundle needs a file"; bundle=$2; shift ;;
    --make-bundle) [[ $# -gt 1 ]] || fail "--make-bundle needs a file"; action=bundle; bundle=$2; shift ;;
    --undo) action=undo ;;
    --purge) purge=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "$1 is no argument of it" ;;
  esac
  shift
done

if [[ $action == undo ]]; then
  [[ $EUID -eq 0 ]] || fail "it removes $PREFIX and $UNITS, so it must be run as root: sudo $0 --undo"
  undo "$purge"
  exit 0
fi
if [[ $action == bundle ]]; then
  file=$(realpath "$bundle")
  (cd "$SOURCE" && PYTHONDONTWRITEBYTECODE=1 python3 -m serving.bootstrap --profile "${profile:-auto}" --bundle "$file")
  exit 0
fi
[[ -z $bundle || $EUID -ne 0 ]] || open_bundle "$bundle"
check_machine
# What is installed is for the card that the service serves, not for the one that a later run would find or be told of.
kept=$(settings_profile)
[[ -z $profile || -z $kept || $profile == "$kept" ]] || fail "the service's settings name the profile $kept, not $profile. \
Change ONECARD_ARGS in $SETTINGS/onecard.env, and run this again without --profile."
profile=${profile:-$kept}
[[ -z $BUNDLE ]] || profile=${profile:-$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["profile"])' "$BUNDLE/bundle.json")}
profile=${profile:-auto}
make_user
install_program
write_settings
fetch_model
switch_program
install_service
if [[ $changed -eq 1 ]]; then say "Done."; else say "Everything is as it should be; nothing was changed."; fi
