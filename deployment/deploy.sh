#!/bin/bash
# Installs, upgrades and removes mailferry as a service of this machine (Debian, Ubuntu; Python 3.11 or later).
#
# Why an interruption does no harm: a version is built in a folder of its own, which nothing uses before it is
# complete. What is then changed elsewhere (units, commands, the link `current`) is first kept in $transaction; a run
# that fails takes all of it back from there, and after a kill -9 the next run of this script does.
set -euo pipefail
umask 022
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
sources=${here%/*}
# shellcheck source=deployment/layout.sh
. "$here/layout.sh"

prefix=/opt/mailferry
current=$prefix/current
transaction=$prefix/.transaction
#: What an upgrade restarts; a collecting run that is under way ends by itself.
services=(trackandtrace.service mailferry.service)
#: Behind the name of what is being written and not in place yet.
half=.mailferry-new
#: Seconds in which a restarted service must not fail.
patience=20

usage() {
    cat <<'TEXT'
usage: deploy.sh install | upgrade [--wheelhouse DIR] [--with EXTRA]...
       deploy.sh uninstall | status

  install           install this version, or bring an installation to it; data and configuration are kept
  upgrade           the same, for a machine that has an installation
  uninstall         remove the program; data and configuration stay
  status            what is installed, and where

  --wheelhouse DIR  install offline from this folder of wheels (default: `wheelhouse` beside this script, if there)
  --with EXTRA      oauth (sign in to Microsoft 365 and Google mailboxes), postgres (a PostgreSQL server for the private
                    database); may be given again. An upgrade keeps the extras that are installed.
TEXT
}

say() { printf '%s\n' "$*"; }
warn() { printf 'deploy.sh: %s\n' "$*" >&2; }
die() {
    warn "$*"
    exit 1
}
step() {
    current_step=$1
    say "==> $1"
}

# What is placed outside of the version's folder

# KIND SOURCE TARGET, a line each: `file` is copied, `conf` as well unless somebody has changed it, `link` points there.
placed() {
    local share=$current/share/mailferry unit name
    for unit in trackandtrace.service mailferry.service mailferry-collect.service mailferry-collect.timer; do
        say "file systemd/$unit /etc/systemd/system/$unit"
    done
    if [[ $(systemd_version) -ge 254 ]]; then
        for unit in trackandtrace mailferry; do
            say "file systemd/restart-steps.conf /etc/systemd/system/$unit.service.d/50-restart-steps.conf"
        done
    fi
    say "conf trackandtrace.logrotate /etc/logrotate.d/trackandtrace"
    for name in mailferry trackandtrace uzmanposta; do
        say "link $current/bin/$name /usr/local/bin/$name"
    done
    for name in start stop status logs test; do
        say "link $share/trackandtrace-command /usr/local/bin/trackandtrace-$name"
    done
    say "link $share/completions/mailferry.bash /usr/local/share/bash-completion/completions/mailferry"
    say "link $share/completions/mailferry.zsh /usr/local/share/zsh/site-functions/_mailferry"
    say "link $share/completions/mailferry.fish /usr/local/share/fish/vendor_completions.d/mailferry.fish"
}

systemd_version() {
    { systemctl --version 2>/dev/null || echo "systemd 0"; } | awk 'NR == 1 { print int($2) }'
}

# The manifest that a version was installed with; nothing where there is none.
manifest_of() {
    [[ -z $1 ]] || cat "$1/share/mailferry/manifest" 2>/dev/null || true
}

# places VERSION TARGET
places() {
    [[ -n $1 ]] && grep -qs " $2\$" "$1/share/mailferry/manifest"
}

# The transaction

# begin FORMER NEW: keep everything that the two manifests name.
begin() {
    local kept=$transaction.new path
    rm -rf "$kept"
    mkdir -p "$kept/old" "$kept/contents"
    say "$1" >"$kept/current"
    : >"$kept/made"
    : >"$kept/active"
    if systemd_runs; then
        local service
        for service in "${services[@]}"; do
            case $(systemctl show -p ActiveState --value "$service") in
            active | activating | reloading) say "$service" >>"$kept/active" ;;
            esac
        done
    fi
    while read -r _ _ path; do
        if [[ -e $path || -L $path ]]; then
            cp -a --parents "$path" "$kept/old/"
        else
            say "$path" >>"$kept/made"
        fi
        say "$path$half" >>"$kept/made"
    done < <({ manifest_of "$1"; manifest_of "$2"; } | sort -u)
    sync -f "$kept"
    mv -T "$kept" "$transaction"
}

# will_make PATH [CONTENT], just before it is made. With CONTENT it is taken back only while it is still like that file.
will_make() {
    if [[ -n ${2:-} ]]; then
        mkdir -p "$transaction/contents${1%/*}"
        cp "$2" "$transaction/contents$1"
    fi
    say "$1" >>"$transaction/made"
}

commit() {
    mv -T "$transaction" "$transaction.done"
    rm -rf "$transaction.done"
}

# take_back VERB: back to how things were when the transaction began, VERB for the services that ran then.
take_back() {
    local path former unit folders=() user=''
    former=$(<"$transaction/current")
    while read -r path; do
        if [[ -d $path && ! -L $path ]]; then
            folders=("$path" "${folders[@]}")
        elif [[ $path == user:* ]]; then
            user=${path#user:}
        elif [[ ! -e $transaction/contents$path ]] || cmp -s "$path" "$transaction/contents$path"; then
            rm -f "$path"
        fi
    done <"$transaction/made"
    [[ ${#folders[@]} -eq 0 ]] || rmdir --ignore-fail-on-non-empty "${folders[@]}"
    # What somebody has put into one of the folders meanwhile belongs to the user.
    if [[ -n $user && ! -e /var/lib/trackandtrace && ! -e /etc/trackandtrace ]]; then
        userdel "$user" || true # not made yet, or still in use
    fi
    rm -f "$prefix/.current.new"
    cp -a --remove-destination "$transaction/old/." /
    if [[ -n $former ]]; then
        point_to "$former"
    else
        rm -f "$current"
    fi
    reload
    while read -r unit; do
        systemctl "$1" --no-block "$unit" || warn "could not start $unit again; look at: journalctl -u $unit"
    done <"$transaction/active"
    rm -rf "$transaction"
}

# A run before this one was killed.
recover() {
    rm -rf "$transaction.new" "$transaction.done"
    if [[ -d $transaction ]]; then
        step "An earlier run was cut off: taking its changes back"
        take_back try-restart # somebody may have stopped them since
    fi
}

at_exit() {
    local status=$?
    trap '' INT TERM HUP PIPE
    set +e
    [[ -z ${scratch:-} ]] || rm -rf "$scratch"
    if [[ -z ${alone:-} ]]; then
        : # what is there is somebody else's work
    elif [[ $status -ne 0 && $command == uninstall ]]; then
        warn "failed at: $current_step; run it again to remove the rest"
    elif [[ $status -ne 0 ]]; then
        warn "failed at: $current_step"
        if [[ -d $transaction ]]; then
            warn "taking back what was changed"
            take_back restart
        fi
        [[ -z ${unfinished:-} ]] || rm -rf "$unfinished"
        rmdir "$prefix/versions" 2>/dev/null
        rm -rf "$transaction.new"
        if [[ -L $current ]]; then
            warn "what was installed before is as it was: $(version_of "$current")"
        else
            rm -f "$prefix/.lock"
            rmdir "$prefix" 2>/dev/null
            warn "nothing is installed"
        fi
    fi
    exit "$status"
}

# Steps

point_to() {
    ln -sfn "$1" "$prefix/.current.new"
    mv -T "$prefix/.current.new" "$current"
}

reload() {
    ! systemd_runs || systemctl daemon-reload
}

version_of() {
    cat "$1/share/mailferry/version" 2>/dev/null || say "unknown"
}

only_one() {
    mkdir -p "$prefix"
    exec 9>"$prefix/.lock"
    flock -n 9 || die "another deploy.sh is at work; wait for its end"
    alone=yes
}

no_package() {
    local state
    state=$(dpkg-query -W -f '${db:Status-Status}' mailferry 2>/dev/null || true)
    [[ $state != installed ]] || die "the Debian package mailferry is installed; use apt, or remove it first: apt remove mailferry"
}

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -Ic 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(command -v "$name")
            return
        fi
    done
    die "Python 3.11 or later is needed: apt-get install python3 (Debian 12, Ubuntu 24.04 or later)"
}

# The pip of the wheelhouse, or the system's: the machine needs no python3-venv.
find_pip() {
    local found
    offline=()
    pip_wheel=''
    if [[ -n $wheelhouse ]]; then
        found=$(find "$wheelhouse" -maxdepth 1 -name 'pip-*.whl' | sort -V | tail -n 1)
        [[ -n $found ]] || die "$wheelhouse has no pip-*.whl; make a wheelhouse with: ./dev wheelhouse DIR"
        pip_wheel=$found
        offline=(--no-index --find-links "$wheelhouse")
        return
    fi
    if ! "$python" -Im pip --version >/dev/null 2>&1; then
        step "Installing python3-pip"
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-pip >/dev/null ||
            die "apt-get could not install python3-pip; try apt-get update first, or install offline with --wheelhouse"
    fi
}

# pip_in VENV ARGUMENT...
pip_in() {
    local venv=$1 verb=$2 pip=("$python" -Im pip --python "$1/bin/python")
    shift 2
    [[ -z $pip_wheel ]] || pip=("$venv/bin/python" "$pip_wheel/pip")
    "${pip[@]}" "$verb" --quiet --no-input --no-cache-dir --disable-pip-version-check "${offline[@]}" "$@"
}

# The program's wheel: the one in the wheelhouse, or made of the sources around this script.
find_wheel() {
    local found=()
    if [[ -n $wheelhouse ]]; then
        mapfile -t found < <(find "$wheelhouse" -maxdepth 1 -name 'mailferry-*.whl')
        [[ ${#found[@]} -le 1 ]] || die "$wheelhouse has several versions of mailferry; keep one: ${found[*]##*/}"
    fi
    if [[ ${#found[@]} -eq 0 ]]; then
        step "Building the wheel from $sources"
        [[ -f $sources/pyproject.toml ]] || die "no mailferry-*.whl in the wheelhouse, and no sources in $sources"
        "$python" -Im venv --without-pip "$scratch/build"
        pip_in "$scratch/build" install --require-hashes -r "$here/requirements/build.txt"
        # Built from a copy: nothing may be left behind in the sources.
        mkdir "$scratch/sources"
        cp -r "$sources"/{pyproject.toml,README.md,LICENSE,src} "$scratch/sources/"
        pip_in "$scratch/build" wheel --no-deps --no-build-isolation --wheel-dir "$scratch/wheel" "$scratch/sources"
        found=("$scratch"/wheel/mailferry-*.whl)
    fi
    wheel=${found[0]}
    version=${wheel##*/mailferry-}
    version=${version%%-*}
}

# Two installations from the same things are the same one.
fingerprint() {
    {
        "$python" -VV
        printf '%s\n' "${extras[@]}"
        placed
        cat "$wheel" "$here"/requirements/*.txt "$sources/requirements/runtime.txt"
        find "$here" "$sources/systemd" "$sources"/*.example "$sources/docs/install.md" \
            -path "$wheelhouse" -prune -o -type f -print0 | sort -z | xargs -0 cat
    } | sha256sum | cut -c 1-12
}

# A complete version in its own folder, which carries everything that is placed elsewhere later.
build() {
    local folder=$1 share=$1/share/mailferry extra locks=(-r "$sources/requirements/runtime.txt")
    for extra in "${extras[@]}"; do
        locks+=(-r "$here/requirements/$extra.txt")
    done
    rm -rf "$folder"
    mkdir -p "${folder%/*}"
    "$python" -Im venv --without-pip "$folder"
    pip_in "$folder" install --no-compile --require-hashes "${locks[@]}"
    pip_in "$folder" install --no-compile --no-deps "$wheel"
    # On all cores; a file that is for another Python is none of the program's and does not compile.
    "$folder/bin/python" -Im compileall -q -j 0 "$folder/lib" >/dev/null || true
    fill_share "$folder" "$sources"
    complete_shells "$folder" || die "the new program does not start (see above); nothing was changed"
    placed >"$share/manifest"
    printf '%s\n' "${extras[@]}" >"$share/extras"
    say "$version" >"$share/version"
    sync -f "$folder"
    : >"$folder/.complete"
}

# Nothing is switched to a program that does not start, or that refuses a configuration which the present one takes.
check_program() {
    local folder=$1 name said file
    for name in mailferry trackandtrace uzmanposta; do
        "$folder/bin/$name" --help >/dev/null || die "the new $name does not start; nothing was changed"
    done
    said=$("$folder/bin/python" -Ic 'import mailferry; print(mailferry.__version__)')
    [[ $said == "$version" ]] || die "the new program says that it is '$said', not $version; nothing was changed"
    [[ -x $current/bin/python ]] || return 0
    for file in /etc/trackandtrace/config.env /etc/mailferry/uzmanposta.ini /etc/mailferry/mailferry.toml; do
        if [[ -f $file ]] && takes "$current" "$file" 2>/dev/null && ! takes "$folder" "$file"; then
            die "mailferry $version refuses $file (see above), which $(version_of "$current") takes; correct it and try again"
        fi
    done
}

# takes VERSION FILE, asked as the user who will read it.
takes() {
    runuser -u "$service_user" -- "$1/bin/mailferry" config check --config "$2" >/dev/null
}

# What would be replaced although no version of ours put it there is kept.
keep_foreign() {
    local target=$1 former=$2
    [[ -e $target || -L $target ]] || return 0
    [[ $(readlink "$target") != $prefix/* ]] || return 0
    ! places "$former" "$target" || return 0
    mkdir -p "/var/backups/mailferry${target%/*}"
    cp -a "$target" "/var/backups/mailferry$target"
    say "    $target was not from this installation; a copy is in /var/backups/mailferry$target"
}

# put MODE SOURCE TARGET, in one step.
put() {
    install -m "$1" "$2" "$3$half"
    mv -T "$3$half" "$3"
}

parents() {
    [[ -d $1 ]] || {
        parents "${1%/*}"
        will_make "$1"
        mkdir -m 755 "$1"
    }
}

# place FOLDER FORMER: units, commands and the rest; what only the former version placed goes away.
place() {
    local folder=$1 former=$2 kind source target share=$1/share/mailferry
    while read -r kind source target; do
        keep_foreign "$target" "$former"
        parents "${target%/*}"
        case $kind in
        file) put 644 "$share/$source" "$target" ;;
        conf)
            if [[ -e $target && -n $former ]] && changed_by_hand "$former" "$source" "$target"; then
                say "    $target was changed here and stays; this version's is $current/share/mailferry/$source"
            else
                put 644 "$share/$source" "$target"
            fi
            ;;
        link)
            ln -sfn "$source" "$target$half"
            mv -T "$target$half" "$target"
            ;;
        esac
    done < <(manifest_of "$folder")
    while read -r _ _ target; do
        places "$folder" "$target" || rm -f "$target"
    done < <(manifest_of "$former")
}

changed_by_hand() {
    ! cmp -s "$1/share/mailferry/$2" "$3"
}

# Services that ran are started again, and have some time to show that they can.
restart() {
    local unit state ran second
    mapfile -t ran <"$transaction/active"
    for unit in "${ran[@]}"; do
        step "Restarting $unit"
        systemctl restart --no-block "$unit"
        for ((second = 0; second < patience; second++)); do
            sleep 1
            state=$(systemctl show -p ActiveState --value "$unit")
            [[ $state != failed && $(systemctl show -p SubState --value "$unit") != auto-restart* ]] ||
                die "$unit does not run with the new version: journalctl -u $unit"
            [[ $state != active || $second -lt 3 ]] || break
        done
        say "    $unit is $state"
    done
}

# The present version and the one before it are kept.
clean_up() {
    local folder
    for folder in "$prefix"/versions/*; do
        [[ $folder == "$1" || $folder == "$2" ]] || rm -rf "$folder"
    done
}

# Commands

install_or_upgrade() {
    local former='' folder
    if [[ -L $current ]]; then
        former=$(readlink "$current")
        if [[ ${#extras[@]} -eq 0 ]]; then
            mapfile -t extras < <(grep . "$former/share/mailferry/extras" || true)
        fi
    elif [[ $command == upgrade ]]; then
        die "nothing is installed; use: deploy.sh install"
    fi
    mapfile -t extras < <(printf '%s\n' "${extras[@]}" | grep . | sort -u)
    no_package
    find_python
    find_pip
    scratch=$(mktemp -d)
    find_wheel
    folder=$prefix/versions/$version-$(fingerprint)
    if [[ ! -e $folder/.complete ]]; then
        step "Building mailferry $version${extras[*]:+ with ${extras[*]}} in $folder"
        unfinished=$folder
        build "$folder"
    fi
    step "Checking that mailferry $version starts"
    check_program "$folder"
    [[ $folder != "$former" ]] || unfinished=''

    begin "$former" "$folder"
    step "User, folders and configuration"
    make_user
    make_folders
    make_configuration "$folder/share/mailferry"
    step "Units, commands, log rotation and shell completion"
    place "$folder" "$former"
    if [[ $folder == "$former" ]]; then
        reload
        commit
        say "mailferry $version is installed; nothing has changed."
        return
    fi
    step "Switching to mailferry $version"
    point_to "$folder"
    if systemd_runs; then
        reload
        restart
    else
        say "    systemd does not run here (a container or chroot): its units are in place, none was loaded or restarted"
    fi
    commit
    unfinished=''
    clean_up "$folder" "$former"
    say "mailferry $version is installed."
    [[ -n $former ]] || first_steps
}

first_steps() {
    cat <<'TEXT'

Next:
  sudo nano /etc/trackandtrace/config.env            mailbox, database, table
  trackandtrace-test                                 does it all work?
  sudo systemctl enable --now trackandtrace.service
Event feeds, or several feeds of both kinds: the examples in /etc/mailferry say what to do.
TEXT
}

uninstall() {
    local former target kind source kept=()
    if [[ ! -L $current && ! -d $prefix/versions ]]; then
        say "mailferry is not installed."
        rm -rf "$prefix"
        return
    fi
    former=$(readlink "$current" || true)
    if systemd_runs; then
        step "Stopping and disabling the services"
        systemctl disable --now --quiet "${services[@]}" mailferry-collect.timer 2>/dev/null || true
        systemctl stop mailferry-collect.service
    fi
    step "Removing units, commands, log rotation and shell completion"
    while read -r kind source target; do
        if [[ $kind == conf && -e $target ]] && changed_by_hand "$former" "$source" "$target"; then
            kept+=("$target")
        else
            rm -f "$target"
        fi
    done < <(manifest_of "$former")
    rmdir --ignore-fail-on-non-empty /etc/systemd/system/{trackandtrace,mailferry}.service.d 2>/dev/null || true
    reload
    step "Removing $prefix"
    rm -rf "$prefix"
    cat <<TEXT
mailferry is removed. What is left, for another installation:
  configuration  /etc/trackandtrace /etc/mailferry${kept[*]:+ ${kept[*]}}
  data           /var/lib/trackandtrace /var/lib/mailferry
  logs           /var/log/trackandtrace
  user           $service_user
To remove that too, with all data and the private database:
  rm -rf /etc/trackandtrace /etc/mailferry /var/lib/trackandtrace /var/lib/mailferry /var/log/trackandtrace${kept[*]:+ ${kept[*]}}
  userdel $service_user
TEXT
}

# Exit status 0: installed; 1: damaged or cut off; 3: not installed.
status() {
    local unit path folder
    if [[ -d $transaction ]]; then
        say "An earlier run was cut off; run install, upgrade or uninstall again to put it right."
        exit 1
    fi
    if [[ ! -L $current ]]; then
        say "mailferry is not installed by deploy.sh."
        exit 3
    fi
    folder=$(readlink "$current")
    say "version        $(version_of "$folder")"
    say "extras         $(paste -sd ' ' "$folder/share/mailferry/extras")"
    say "program        $folder"
    if ! "$folder/bin/mailferry" --help >/dev/null 2>&1; then
        say "               does not start (was Python replaced?); run install again"
        damaged=1
    fi
    while read -r _ _ path; do
        [[ -e $path ]] || { say "missing        $path; run install again"; damaged=1; }
    done < <(manifest_of "$folder")
    for path in /etc/trackandtrace /etc/mailferry; do say "configuration  $path"; done
    for path in /var/lib/trackandtrace /var/lib/mailferry; do say "data           $path"; done
    say "logs           /var/log/trackandtrace"
    for unit in trackandtrace.service mailferry.service mailferry-collect.timer; do
        if systemd_runs; then
            say "$(printf '%-24s' "$unit") $(systemctl is-active "$unit" || true), $(systemctl is-enabled "$unit" 2>/dev/null || true)"
        else
            say "$(printf '%-24s' "$unit") in place; systemd does not run here"
        fi
    done
    exit "${damaged:-0}"
}

command=${1:-}
[[ $# -eq 0 ]] || shift
extras=()
wheelhouse=''
[[ ! -d $here/wheelhouse ]] || wheelhouse=$here/wheelhouse
while [[ $# -gt 0 ]]; do
    case $1 in
    --wheelhouse)
        [[ -d ${2:-} ]] || die "--wheelhouse: no such folder: ${2:-}"
        wheelhouse=$(readlink -f "$2")
        shift 2
        ;;
    --with)
        [[ ${2:-} == oauth || ${2:-} == postgres ]] || die "--with: oauth or postgres, not '${2:-}'"
        extras+=("$2")
        shift 2
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done

case $command in
install | upgrade | uninstall)
    [[ $EUID -eq 0 ]] || die "run it as root: sudo ./deployment/deploy.sh $command"
    ;;
status)
    status
    ;;
help | -h | --help)
    usage
    exit 0
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

cd / # the service's user may not enter the folder that this was called from
current_step="the preparations"
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
trap 'exit 141' PIPE # whoever read the output is gone
only_one
recover
case $command in
uninstall) uninstall ;;
*) install_or_upgrade ;;
esac
