#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds vinci_nfsd.ko for one kernel and stops when that kernel's nfsd is not the one the module was written for.
#
#   build.sh OUT.ko [ROOT]
#
# ROOT (default /) holds the unpacked packages linux-headers-$KERNEL, linux-headers-…-common, linux-kbuild-6.1 and
# linux-source-6.1 of the same version as linux-image-$KERNEL. `build.sh --hashes [ROOT]` prints what functions.sha256 should
# hold: read the differences of each function before you accept them.
set -eu
KERNEL=6.1.0-56-cloud-amd64
COMMON=6.1.0-56-common
here=$(cd "$(dirname "$0")" && pwd)
out=$1
root=${2:-/}
root=${root%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

tar -C "$work" -xf "$root/usr/src/linux-source-6.1.tar.xz" --wildcards \
    'linux-source-6.1/fs/nfsd/*' linux-source-6.1/fs/open.c 'linux-source-6.1/security/selinux/include/*' \
    linux-source-6.1/security/selinux/hooks.c linux-source-6.1/Makefile
source=$work/linux-source-6.1

# Text of a C function or struct: from the line that names it at its start to the brace that ends it.
text_of() {
    awk -v name="$2" '
        index($0, name) && $0 !~ /;[[:space:]]*$/ && $0 !~ /^[[:space:]*\/]/ { found = 1 }
        found { print }
        found && /^}/ { exit }' "$source/$1"
}

hashes() {
    while read -r file name; do
        [ -n "$file" ] || continue
        body=$(text_of "$file" "$name")
        [ -n "$body" ] || { echo "build.sh: $name is not in $file" >&2; exit 1; }
        printf '%s %s %s\n' "$(printf '%s' "$body" | sha256sum | cut -c1-64)" "$file" "$name"
    done <"$here/functions"
}

if [ "$out" = --hashes ]; then
    hashes
    exit
fi
hashes >"$work/found"
if ! diff -u "$here/functions.sha256" "$work/found" >&2; then
    echo "build.sh: these functions of the kernel's source differ from those that the module was written for:" >&2
    echo "          read each difference, adapt the module, then renew functions.sha256 (build.sh --hashes)" >&2
    exit 1
fi
version=$(sed -n 's/^SUBLEVEL = //p' "$source/Makefile")
have=$(sed -n 's/.*UTS_VERSION.*Debian 6\.1\.\([0-9]*\)-.*/\1/p' "$root/usr/src/linux-headers-$KERNEL/include/generated/utsversion.h" \
    "$root/usr/src/linux-headers-$KERNEL/include/generated/compile.h" 2>/dev/null | head -n 1)
if [ -n "$have" ] && [ "$have" != "$version" ]; then
    echo "build.sh: linux-source is 6.1.$version, the headers are 6.1.$have: install the same version of both" >&2
    exit 1
fi

mkdir "$work/module"
cp "$here"/*.c "$here"/*.h "$here/Makefile" "$work/module"
cp "$source/security/selinux/include/classmap.h" "$work/module"
# The headers' Makefile names the common headers by an absolute path, which holds only where they are installed.
headers=$work/headers
mkdir "$headers"
ln -s "$root/usr/src/linux-headers-$KERNEL"/.config "$root/usr/src/linux-headers-$KERNEL"/.kernelvariables \
    "$root/usr/src/linux-headers-$KERNEL"/* "$headers"
rm "$headers/Makefile"
sed "s#/usr/src/#$root/usr/src/#" "$root/usr/src/linux-headers-$KERNEL/Makefile" >"$headers/Makefile"
make -s -C "$headers" M="$work/module" NFSD="$source/fs/nfsd" modules >&2
strip --strip-debug "$work/module/vinci_nfsd.ko"
cp "$work/module/vinci_nfsd.ko" "$out"
