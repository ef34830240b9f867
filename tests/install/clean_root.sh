#!/usr/bin/env bash
# deploy/install.sh from end to end in a root file system that holds nothing but a bare Debian:
#   sudo tests/install/clean_root.sh [--bundle FILE] [FOLDER]   (DEBIAN_SUITE=bookworm, DEBIAN_MIRROR=URL where another is nearer)
# Installs twice (the second time nothing may change), serves as the service's user, asks about a picture, undoes it, and
# looks that nothing is left. With a bundle for the CPU all of it happens without network, and then an upgrade to a newer
# bundle and the way back. Takes ten minutes and 6 GB, twice that with a bundle. Needs root and debootstrap.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
bundle=
[[ ${1:-} != --bundle ]] || { bundle=$(realpath "$2"); shift 2; }
root=${1:-$(mktemp --directory --tmpdir onecard-root.XXXXXX)}
port=8399
# What an offline machine must have of its own.
needed=python3,ca-certificates${bundle:+,python3-venv,libnuma1,gcc,libc6-dev}

fail() { printf 'clean_root.sh: %s\n' "$*" >&2; exit 1; }

if [[ -z ${ONECARD_IN_NAMESPACE:-} ]]; then
  [[ $EUID -eq 0 ]] || fail "run it as root"
  [[ -x $root/usr/bin/python3 ]] || debootstrap --variant=minbase --include="$needed" "${DEBIAN_SUITE:-bookworm}" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  # Mounts of its own, gone with it; and with a bundle no network but loopback.
  ONECARD_IN_NAMESPACE=1 exec unshare --mount ${bundle:+--net} "$0" ${bundle:+--bundle "$bundle"} "$root"
fi

mount -t proc proc "$root/proc"
for each in dev sys; do mount --rbind "/$each" "$root/$each"; done
mkdir -p "$root/source"
(cd "$repository" && git ls-files -z | tar --create --null --files-from -) | tar --extract --directory "$root/source"

bare=(chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root)
inside() { "${bare[@]}" "$@"; }

if [[ -n $bundle ]]; then
  ip link set lo up
  mkdir -p "$root/bundles"
  tar --extract --no-same-owner --file "$bundle" --directory "$root/bundles"
  place=/bundles/$(basename "$root"/bundles/onecard-*)
  installer() { inside "$place/install.sh" "$@"; }
else
  # Folders that this machine's pip.conf names, where it has its packages from one.
  for each in ${SHARED_FOLDERS:-}; do
    mkdir -p "$root$each"
    mount --bind "$each" "$root$each"
  done
  # As this machine reaches its packages, so does that one.
  for file in etc/resolv.conf etc/hosts etc/pip.conf root/.config/pip/pip.conf etc/ssl/certs/ca-certificates.crt; do
    [[ ! -f /$file ]] || install -D --mode 0644 "/$file" "$root/$file"
  done
  cp --recursive /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
  installer() { inside bash /source/deploy/install.sh --profile cpu "$@"; }
fi

serve_and_ask() {
  "${bare[@]}" setpriv --reuid onecard --regid onecard --clear-groups env HOME=/var/lib/onecard XDG_CACHE_HOME=/var/cache/onecard \
    ONECARD_STATE_DIR=/var/lib/onecard/state onecard serve --profile cpu --port "$port" &
  local server=$!
  # shellcheck disable=SC2064 # the process of now
  trap "kill $server 2>/dev/null || true" EXIT
  until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/ready', timeout=5)" 2>/dev/null; do
    kill -0 "$server" || fail "the server ended"
    sleep 1
  done
  inside onecard ask --port "$port" /source/tests/install/red-square.png 'What is in the picture?' | tee >(cat >&2) |
    grep -q 'red square' || fail "that is not the answer"
  kill "$server"
  wait "$server" || fail "it did not end well"
  trap - EXIT
}

# A bundle of the same, but for the version.
upgrade_and_back() {
  local before
  before=$(readlink "$root/opt/onecard/current")
  sed --in-place 's/^__version__ = .*/__version__ = "9.9.9"/' "$root$place/source/serving/__init__.py"
  (cd "$root$place" && sha256sum source/serving/__init__.py >changed && grep -v ' source/serving/__init__.py$' SHA256SUMS >>changed && mv changed SHA256SUMS)
  inside onecard upgrade --to "$place" --profile cpu
  inside onecard --version | grep -qx 9.9.9 || fail "the new version is not in use"
  inside onecard upgrade --roll-back
  [[ $(readlink "$root/opt/onecard/current") == "$before" ]] || fail "it did not go back"
}

installer
installer | tee >(cat >&2) | grep -q 'nothing was changed' || fail "the second run changed something"
serve_and_ask
if [[ -n $bundle ]]; then upgrade_and_back; fi
installer --undo --purge
for left in /opt/onecard /etc/onecard /var/lib/onecard /var/cache/onecard /usr/local/bin/onecard /etc/systemd/system/onecard.service; do
  [[ ! -e $root$left ]] || fail "$left is left"
done
inside getent passwd onecard && fail "the user is left"
printf 'Installed twice, served, asked, %sundone.\n' "${bundle:+upgraded, went back, }"
