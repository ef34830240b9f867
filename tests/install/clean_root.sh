#!/usr/bin/env bash
# deploy/install.sh from end to end in a root file system that holds nothing but a bare Debian:
#   sudo tests/install/clean_root.sh [FOLDER]      (DEBIAN_SUITE=bookworm, DEBIAN_MIRROR=URL where another is nearer)
# Installs twice (the second time nothing may change), serves as the service's user, asks about a picture, undoes it, and
# looks that nothing is left. Takes ten minutes and 6 GB. Needs root, debootstrap and this machine's access to packages.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
root=${1:-$(mktemp --directory --tmpdir onecard-root.XXXXXX)}
port=8399

fail() { printf 'clean_root.sh: %s\n' "$*" >&2; exit 1; }

if [[ -z ${ONECARD_IN_NAMESPACE:-} ]]; then
  [[ $EUID -eq 0 ]] || fail "run it as root"
  [[ -x $root/usr/bin/python3 ]] || debootstrap --variant=minbase --include=python3,ca-certificates "${DEBIAN_SUITE:-bookworm}" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  # Mounts of its own, gone with it.
  ONECARD_IN_NAMESPACE=1 exec unshare --mount "$0" "$root"
fi

mount -t proc proc "$root/proc"
for each in dev sys; do mount --rbind "/$each" "$root/$each"; done
# Folders that this machine's pip.conf names, where it has its packages from one.
for each in ${SHARED_FOLDERS:-}; do
  mkdir -p "$root$each"
  mount --bind "$each" "$root$each"
done
mkdir -p "$root/source"
(cd "$repository" && git ls-files -z | tar --create --null --files-from -) | tar --extract --directory "$root/source"
# As this machine reaches its packages, so does that one.
for file in etc/resolv.conf etc/hosts etc/pip.conf root/.config/pip/pip.conf etc/ssl/certs/ca-certificates.crt; do
  [[ ! -f /$file ]] || install -D --mode 0644 "/$file" "$root/$file"
done
cp --recursive /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"

bare=(chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root)
inside() { "${bare[@]}" "$@"; }
installer() { inside bash /source/deploy/install.sh "$@"; }

installer --profile cpu
installer --profile cpu | tee /dev/stderr | grep -q 'nothing was changed' || fail "the second run changed something"

"${bare[@]}" setpriv --reuid onecard --regid onecard --clear-groups env HOME=/var/lib/onecard XDG_CACHE_HOME=/var/cache/onecard \
  ONECARD_STATE_DIR=/var/lib/onecard/state onecard serve --profile cpu --port "$port" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/ready', timeout=5)" 2>/dev/null; do
  kill -0 "$server" || fail "the server ended"
  sleep 1
done
inside onecard ask --port "$port" /source/tests/install/red-square.png 'What is in the picture?' | tee /dev/stderr |
  grep -q 'red square' || fail "that is not the answer"
kill "$server"
wait "$server" || fail "it did not end well"
trap - EXIT

installer --undo --purge
for left in /opt/onecard /etc/onecard /var/lib/onecard /var/cache/onecard /usr/local/bin/onecard /etc/systemd/system/onecard.service; do
  [[ ! -e $root$left ]] || fail "$left is left"
done
inside getent passwd onecard && fail "the user is left"
printf 'Installed twice, served, asked, undone.\n'
