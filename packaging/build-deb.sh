#!/bin/bash
# usage: build-deb.sh WHEELHOUSE DIR    makes DIR/mailferry_VERSION_ARCH.deb; `./dev deb` calls it.
# The package holds its own virtual environment, so it is for the Debian release (its Python) and architecture it is built on.
set -euo pipefail
umask 022
export LC_ALL=C
[[ $# -eq 2 ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

here=$(dirname "$(readlink -f "$0")")
sources=${here%/*}
wheelhouse=$(readlink -f "$1")
out=$(readlink -f "$2")
# shellcheck source=deployment/layout.sh
. "$sources/deployment/layout.sh"
# shellcheck source=deployment/build.sh
. "$sources/deployment/build.sh"
die() {
    printf 'build-deb.sh: %s\n' "$*" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
program=$root/opt/mailferry/current

# The program, where it will be. Scripts and compiled files name that place, not this one.
find_python
find_pip
find_wheel
build_program "$program" oauth
find "$program" -name __pycache__ -prune -exec rm -rf {} +
rm -f "$program"/bin/[Aa]ctivate*
grep -lrI --null "$root" "$program/bin" "$program/pyvenv.cfg" | xargs -0 sed -i "s|$root||g"
# A library may come with files for another Python, which do not compile (olefile has one).
"$python" -Im compileall -q -s "$root" -j 0 "$program/lib" >/dev/null || true

while read -r kind source target; do
    mkdir -p "$root${target%/*}"
    case $kind in
    link) ln -s "$source" "$root$target" ;;
    *) install -m 644 "$program/share/mailferry/$source" "$root$target" ;;
    esac
done < <(placed /usr/lib/systemd/system /usr vendor-completions)
install -d "$root/usr/share/doc/mailferry" "$root/DEBIAN"
install -m 644 "$sources/LICENSE" "$root/usr/share/doc/mailferry/copyright"
install -m 644 "$sources/docs/install.md" "$root/usr/share/doc/mailferry/"

minor=$("$python" -Ic 'import sys; print(sys.version_info.minor)')
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$(dpkg --print-architecture)/" \
    -e "s/@PYTHON@/3.$minor/" -e "s/@NEXT@/3.$((minor + 1))/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f 1)/" "$here/debian/control.in" >"$root/DEBIAN/control"

(cd "$root" && find etc -type f -printf "/%p\n") >"$root/DEBIAN/conffiles"
install -m 755 "$here"/debian/{preinst,postinst,prerm,postrm} "$root/DEBIAN/"

mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$out/mailferry_${version}_$(dpkg --print-architecture).deb" >/dev/null
