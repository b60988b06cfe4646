# Sourced by tools/test and tools/quickstart: who we are, what is installed, and how to install the rest.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# Debian keeps mke2fs, losetup and tgtd where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# missing_packages COMMAND=PACKAGE...: prints the packages whose command is not there.
missing_packages() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || printf '%s\n' "${pair#*=}"
    done | sort -u
}

# install_packages PACKAGE...: installs them by apt, without starting the services they bring along (tgt and istgt
# would take port 3260). Fails where apt does.
install_packages() {
    local policy=/usr/sbin/policy-rc.d ours='' log status=0
    log=$(mktemp)
    if [ ! -e $policy ]; then
        ours=$policy
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get install -qy --no-install-recommends "$@" >"$log" 2>&1 ||
        { apt-get update -q >"$log" 2>&1 && apt-get install -qy --no-install-recommends "$@" >>"$log" 2>&1; }; }; then
        tail -n 20 "$log" >&2
        status=1
    fi
    rm -f "$log" ${ours:+"$ours"}
    return $status
}

# need_rust: cargo new enough to build this, or the reason why not.
need_rust() {
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust 1.85 or newer (Debian 13: apt install cargo; else https://rustup.rs)"
    local version minor
    version=$(rustc --version) || die "rustc does not run"
    minor=${version#rustc 1.}
    minor=${minor%%.*}
    [ "$minor" -ge 85 ] || die "$version is too old: Rust 1.85 or newer is needed (https://rustup.rs)"
    command -v cc >/dev/null || die "no C linker: apt install gcc libc6-dev"
}

# open_fuse: as root, makes /dev/fuse what distributions have: there, and open to ordinary users.
open_fuse() {
    is_root || return 0
    if [ ! -e /dev/fuse ]; then
        say "making /dev/fuse"
        mknod -m 666 /dev/fuse c 10 229
    fi
    if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        say "opening /dev/fuse to ordinary users (chmod 666)"
        chmod 666 /dev/fuse
    fi
}
