#!/bin/sh
# Prepare this machine: `environment` makes .venv, `guests` makes sure of the Debian programs that the demo and the tests run.
# What is missing is installed when root and apt are there; otherwise it is named, one line each.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# command:package pairs
TOOLS="gcc:gcc make:make python3:python3"
GUESTS="busybox:busybox-static bash:bash dash:dash gawk:gawk bc:bc sqlite3:sqlite3 xz:xz-utils gzip:gzip tar:tar git:git make:make gcc:gcc perl:perl
python3:python3 ps:procps stress-ng:stress-ng openssl:openssl diff:diffutils find:findutils grep:grep sed:sed script:bsdutils strace:strace setpriv:util-linux
getfattr:attr getfacl:acl less:less nano:nano vim:vim tmux:tmux mke2fs:e2fsprogs mksquashfs:squashfs-tools"

missing_packages() {
    for pair in "$@"; do
        PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair#*:}"
    done | sort -u
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

install() { # package...
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null >/tmp/polynix-apt.$$ 2>&1 ||
        { apt-get update -q </dev/null >/dev/null 2>&1 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null >/tmp/polynix-apt.$$ 2>&1; } ||
        { tail -3 /tmp/polynix-apt.$$ >&2; rm -f /tmp/polynix-apt.$$; return 1; }
    rm -f /tmp/polynix-apt.$$
}

environment() {
    python=${PYTHON:-/usr/bin/python3}
    [ "$(uname -sm)" = "Linux x86_64" ] || { say "polynix needs Linux on x86-64; this is $(uname -sm)"; exit 1; }
    command -v "$python" >/dev/null 2>&1 || { say "no $python: install Python 3.11 or newer, or set PYTHON=/path/to/python3"; exit 1; }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "$python is older than 3.11: set PYTHON=/path/to/python3"; exit 1; }

    need=$(missing_packages gcc:gcc make:make)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need="$need python3-venv"
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || need="$need libpython$version-dev"
    echo '#include <stdio.h>' | gcc -E -x c - >/dev/null 2>&1 || need="$need libc6-dev"
    if [ -n "$(echo $need)" ]; then
        can_install || { say "missing: $(echo $need)  (as root: apt-get install $(echo $need))"; exit 1; }
        install $need || { say "could not install: $(echo $need)"; exit 1; }
    fi

    [ -x .venv/bin/python ] || { say "making .venv with $python ($version)"; "$python" -m venv .venv; }
    .venv/bin/python -m pip -q --disable-pip-version-check install 'setuptools>=68' wheel
    .venv/bin/python -m pip -q --disable-pip-version-check install --no-build-isolation -e '.[test]'
}

# A browser opens the HTML reports in tests. Not every Debian has it under this name, and nothing else needs it.
browser() {
    for name in chromium-headless-shell chromium google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    can_install && install chromium-headless-shell && return 0
    say "no Chromium: the tests that open reports are skipped"
}

guests() {
    browser
    need=$(missing_packages $GUESTS)
    [ -n "$need" ] || return 0
    if can_install; then
        install $need || say "could not install: $(echo $need); the tests that run them are skipped"
    else
        say "missing, so the tests that run them are skipped: $(echo $need)  (as root: apt-get install $(echo $need))"
    fi
}

case ${1:-} in
environment) environment ;;
guests) guests ;;
*) say "usage: tools/setup_machine.sh environment|guests"; exit 2 ;;
esac
