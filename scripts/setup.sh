#!/usr/bin/env bash
# Sets up what isoform needs: Debian packages, and a virtual environment in .venv with isoform in it.
#
#   scripts/setup.sh [run|dev]
#
# "dev" adds what tests and linters need. Runs again in a fraction of a second when nothing has changed; installs only
# what is missing. Needs root only where a package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${1:-run}
case $extra in run|dev) ;; *) echo "usage: scripts/setup.sh [run|dev]" >&2; exit 2 ;; esac

# One requirement a line; "a|b": one of them is enough, and each that this release has is installed.
packages='
crun|runc
conmon
qemu-system-x86
qemu-utils
mmdebstrap
debian-archive-keyring
skopeo
golang-github-containers-common
erofs-utils
e2fsprogs
nftables
iproute2
util-linux
kmod
cpio
zstd
lz4
busybox-static
openssh-client
ca-certificates
'

say()  { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n  why: %s\n  fix: %s\n' "$1" "$2" "$3" >&2; exit 1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
# No `grep -q`: it stops reading early, and with pipefail the broken pipe would count as "not offered".
offered()   { apt-cache policy "$1" 2>/dev/null | grep '^  Candidate: [^(]' >/dev/null; }

# The names of $packages that are not installed, as they stand there: "a|b" counts as installed if either is.
missing() {
    local have line
    # One call for all, as each costs a few milliseconds; names that dpkg does not know go to stderr.
    # shellcheck disable=SC2046
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $(tr '|' ' ' <<<"$packages") 2>/dev/null |
        sed -n 's/^installed //p') || true
    for line in $packages; do
        grep -qxE "$line" <<<"$have" || printf '%s\n' "$line"
    done
}

# Runs an apt-get command; its many lines go to build/setup.log and are shown only where it fails.
apt_get() {
    mkdir -p build
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" \
        >build/setup.log 2>&1 || { tail -n 20 build/setup.log >&2; return 1; }
}

apt_updated=
apt_update() {
    [ -z "$apt_updated" ] || return 0
    say "fetching the package lists (apt-get update)"
    apt_get update || fail "apt-get update failed" "see its messages above" "mend /etc/apt or the network, then run this again"
    apt_updated=yes
}

apt_install() {
    [ "$(id -u)" = 0 ] || fail "Debian packages are missing: $*" "only root can install them" "run it with sudo"
    say "installing $*"
    apt_get install "$@" && return
    # The lists may be older than the archive: then a fresh look at it is worth one more try.
    if [ -z "$apt_updated" ]; then apt_update; apt_get install "$@" && return; fi
    fail "apt-get could not install $*" "see its messages above" "mend what apt says, then run this again"
}

install_packages() {
    local wanted shown line name names lacking found
    wanted=$(missing)
    [ -n "$wanted" ] || return 0
    shown=$(tr '\n' ' ' <<<"${wanted//|/ or }")
    command -v apt-get >/dev/null ||
        fail "packages are missing: $shown" "this machine has no apt" \
             "use Debian 12 or Ubuntu 22.04 or later, or install them by other means"
    [ "$(id -u)" = 0 ] || fail "Debian packages are missing: $shown" "only root can install them" "run it with sudo"
    for line in $wanted; do
        for name in ${line//|/ }; do offered "$name" || { apt_update; break 2; }; done
    done
    names=() lacking=()
    for line in $wanted; do
        found=
        for name in ${line//|/ }; do
            if offered "$name"; then names+=("$name"); found=yes; fi
        done
        [ -n "$found" ] || lacking+=("${line//|/ or }")
    done
    [ ${#lacking[@]} = 0 ] ||
        fail "apt knows no package named: ${lacking[*]}" "Ubuntu keeps some of them in its component 'universe'" \
             "enable it (add-apt-repository universe), then run this again"
    apt_install "${names[@]}"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the path of a Python 3.11 or later. A name on PATH proves nothing (pyenv's shims), so each is run once. The
# distribution's own comes first: it is built with profiles, and starts a command a fifth faster than a plain build.
find_python() {
    local name
    for name in ${PYTHON:-} /usr/bin/python3.1{4,3,2,1} /usr/bin/python3 python3.1{4,3,2,1} python3; do
        if is_new_enough "$name"; then command -v "$name"; return; fi
    done
    return 1
}

install_python() {
    local name
    apt_update >&2
    for name in python3.13 python3.12 python3.11; do
        if offered "$name"; then apt_install "$name" "$name-venv" >&2; return; fi
    done
    fail "no Python 3.11 or later" "neither this machine nor its apt sources have one" "install Python 3.11, then run this again"
}

make_venv() {
    local python=$1 version
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then    # Debian splits them off
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        offered "$version-venv" || apt_update
        apt_install "$version-venv"
    fi
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
}

# What a virtual environment depends on: change any of it and the stamp no longer fits.
stamp_text() { { pwd; cat pyproject.toml scripts/setup.sh; } | sha256sum; }

install_isoform() {
    local stamp text python target
    text=$(stamp_text)
    for stamp in .venv/stamp-dev .venv/stamp-"$extra"; do    # dev has all that run has
        if [ -x .venv/bin/isoform ] && [ "$(cat "$stamp" 2>/dev/null)" = "$text" ] && .venv/bin/python -c '' 2>/dev/null
        then return 0; fi
        [ "$extra" = run ] || break
    done
    if ! is_new_enough .venv/bin/python || ! [ -x .venv/bin/pip ]; then
        python=$(find_python) || { install_python; hash -r; python=$(find_python); }
        make_venv "$python"
    fi
    target=.; [ "$extra" = dev ] && target='.[dev]'
    say "installing isoform into .venv"
    .venv/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore \
        --config-settings editable_mode=compat -e "$target" ||
        fail "pip could not install isoform" "see its messages above" "mend the network or pip's settings, then run this again"
    .venv/bin/python -m compileall -q isoform    # the first command is then as quick as the next
    rm -f .venv/stamp-*
    printf '%s\n' "$text" > .venv/stamp-"$extra"
}

[ "$(uname -s)" = Linux ] || fail "this is not Linux" "isoform runs on Linux alone" "use Debian 12 or Ubuntu 22.04 or later"
install_packages
install_isoform
