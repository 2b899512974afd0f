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
python=/usr/bin/python3
# shellcheck source=deployment/layout.sh
. "$sources/deployment/layout.sh"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/root
program=$root/opt/mailferry/current
wheels=("$wheelhouse"/mailferry-*.whl)
version=${wheels[0]##*/mailferry-}
version=${version%%-*}

# The program, where it will be. Scripts and compiled files name that place, not this one.
mkdir -p "${program%/*}" "$root/DEBIAN"
"$python" -Im venv --without-pip "$program"
pip=("$program/bin/python" "$(find "$wheelhouse" -name 'pip-*.whl')/pip")
options=(--quiet --no-input --no-cache-dir --disable-pip-version-check --no-compile --no-index --find-links "$wheelhouse")
"${pip[@]}" install "${options[@]}" --require-hashes \
    -r "$sources/requirements/runtime.txt" -r "$sources/deployment/requirements/oauth.txt"
"${pip[@]}" install "${options[@]}" --no-deps "${wheels[0]}"
fill_share "$program" "$sources"
complete_shells "$program"
find "$program" -name __pycache__ -prune -exec rm -rf {} +
rm -f "$program"/bin/[Aa]ctivate*
grep -lrI --null "$root" "$program/bin" "$program/pyvenv.cfg" | xargs -0 sed -i "s|$root||g"
"$python" -Im compileall -q -s "$root" -j 0 "$program/lib"

# What goes elsewhere
install -d "$root"/usr/{bin,lib/systemd/system,share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d,doc/mailferry}} "$root/etc/logrotate.d"
share=/opt/mailferry/current/share/mailferry
for name in mailferry trackandtrace uzmanposta; do
    ln -s "/opt/mailferry/current/bin/$name" "$root/usr/bin/$name"
done
for name in start stop status logs test; do
    ln -s "$share/trackandtrace-command" "$root/usr/bin/trackandtrace-$name"
done
install -m 644 "$sources"/systemd/*.service "$sources"/systemd/*.timer "$root/usr/lib/systemd/system/"
if [[ $(systemctl --version | awk 'NR == 1 { print int($2) }') -ge 254 ]]; then
    for unit in trackandtrace mailferry; do
        install -Dm 644 "$sources/systemd/restart-steps.conf" \
            "$root/usr/lib/systemd/system/$unit.service.d/50-restart-steps.conf"
    done
fi
install -m 644 "$sources/deployment/trackandtrace.logrotate" "$root/etc/logrotate.d/trackandtrace"
ln -s "$share/completions/mailferry.bash" "$root/usr/share/bash-completion/completions/mailferry"
ln -s "$share/completions/mailferry.zsh" "$root/usr/share/zsh/vendor-completions/_mailferry"
ln -s "$share/completions/mailferry.fish" "$root/usr/share/fish/vendor_completions.d/mailferry.fish"
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
