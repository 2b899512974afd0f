#!/bin/bash
# Installs, upgrades and removes mailferry as a service of this machine (Debian, Ubuntu; Python 3.11 or later).
#
# Why an interruption does no harm: a version is built in a folder of its own, together with the units, commands and settings
# that belong elsewhere. To switch is to place those and to turn the link `current`; to go back is to do the same with the
# version before. After a kill -9 the next run does it for whichever version it is asked for.
set -euo pipefail
umask 022
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
sources=${here%/*}
# shellcheck source=deployment/layout.sh
. "$here/layout.sh"
# shellcheck source=deployment/build.sh
. "$here/build.sh"

# shellcheck source=deployment/versions.sh
. "$here/versions.sh"

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
                    database), otel (traces and metrics by OpenTelemetry); may be given again. An upgrade keeps the extras that are installed.
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

at_exit() {
    local status=$?
    trap '' INT TERM HUP PIPE
    set +e
    rm -rf "$scratch"
    if [[ $status -ne 0 && -n $alone ]]; then
        warn "failed at: $current_step"
        if [[ $command == uninstall ]]; then
            warn "run it again to remove the rest"
        else
            [[ -z $placing ]] || go_back
            [[ -z $unfinished ]] || rm -rf "$unfinished"
            rmdir "$prefix/versions" 2>/dev/null
            if [[ -L $current ]]; then
                warn "what was installed before is as it was: $(version_of "$current")"
            else
                rm -f "$prefix/.lock"
                rmdir "$prefix" 2>/dev/null
                warn "nothing is installed"
            fi
        fi
    fi
    exit "$status"
}

install_or_upgrade() {
    local was_cut_off=''
    [[ ! -e $switching ]] || was_cut_off=yes
    [[ -n $former || $command == install ]] || die "nothing is installed; use: deploy.sh install"
    [[ ${#extras[@]} -gt 0 || -z $former ]] || mapfile -t extras < <(cat "$former/share/mailferry/extras")
    mapfile -t extras < <(printf '%s\n' "${extras[@]}" | grep . | sort -u)
    [[ $(dpkg-query -W -f '${db:Status-Status}' mailferry 2>/dev/null) != installed ]] ||
        die "the Debian package mailferry is installed; use apt, or remove it first: apt remove mailferry"
    find_python
    find_pip
    find_wheel
    folder=$prefix/versions/$version-$(fingerprint)
    if [[ ! -e $folder/.complete ]]; then
        step "Building mailferry $version${extras[*]:+ with ${extras[*]}} in $folder"
        unfinished=$folder
        build
    fi
    step "Checking that mailferry $version starts"
    check_program
    [[ $folder != "$former" ]] || unfinished=''

    placing=yes
    note_services
    step "User, folders and configuration"
    make_user
    make_folders
    make_configuration "$folder/share/mailferry"
    step "Units, commands, log rotation and shell completion"
    place "$folder"
    if [[ $folder == "$former" && -z $was_cut_off ]]; then
        reload
        rm -f "$switching"
        say "mailferry $version is installed; nothing has changed."
        return
    fi
    step "Switching to mailferry $version"
    switched=yes
    point_to "$folder"
    if systemd_runs; then
        reload
        restart
    else
        say "    systemd does not run here (a container or chroot): its units are in place, none was loaded or restarted"
    fi
    rm -f "$switching"
    placing='' unfinished=''
    # The present version and the one before it are kept.
    find "$prefix/versions" -mindepth 1 -maxdepth 1 ! -path "$folder" ! -path "${former:-$folder}" -exec rm -rf {} +
    say "mailferry $version is installed."
    [[ -n $former ]] || cat <<'TEXT'

Next:
  sudo nano /etc/trackandtrace/config.env            mailbox, database, table
  trackandtrace-test                                 does it all work?
  sudo systemctl enable --now trackandtrace.service
Event feeds, or several feeds of both kinds: the examples in /etc/mailferry say what to do.
TEXT
}

uninstall() {
    if [[ -z $former && ! -d $prefix/versions ]]; then
        say "mailferry is not installed."
        rm -rf "$prefix"
        return
    fi
    if systemd_runs; then
        step "Stopping and disabling the services"
        systemctl disable --now --quiet "${services[@]}" mailferry-collect.timer 2>/dev/null || true
        systemctl stop mailferry-collect.service
    fi
    step "Removing units, commands, log rotation and shell completion"
    remove_placed < <(manifest "$prefix"/versions/* | sort -u)
    rmdir --ignore-fail-on-non-empty /etc/systemd/system/{trackandtrace,mailferry}.service.d 2>/dev/null || true
    reload
    step "Removing $prefix"
    rm -rf "$prefix" /var/cache/mailferry
    cat <<TEXT
mailferry is removed. What is left, for another installation:
  configuration  /etc/trackandtrace /etc/mailferry${left[*]:+ ${left[*]}}
  data           /var/lib/trackandtrace /var/lib/mailferry
  logs           /var/log/trackandtrace
  user           $service_user
To remove that too, with all data and the private database:
  rm -rf /etc/trackandtrace /etc/mailferry /var/lib/trackandtrace /var/lib/mailferry /var/log/trackandtrace${left[*]:+ ${left[*]}}
  userdel $service_user
TEXT
}

# Exit status 0: installed; 1: damaged or cut off; 3: not installed.
status() {
    local unit path damaged=0
    if [[ -e $switching ]]; then
        say "An earlier run was cut off; run install, upgrade or uninstall again to put it right."
        exit 1
    elif [[ -z $former ]]; then
        say "mailferry is not installed by deploy.sh."
        exit 3
    fi
    say "version        $(version_of "$former")"
    say "extras         $(paste -sd ' ' "$former/share/mailferry/extras")"
    say "program        $former"
    if ! "$former/bin/mailferry" --help >/dev/null 2>&1; then
        say "               does not start (was Python replaced?); run install again"
        damaged=1
    fi
    while read -r _ _ path; do
        [[ -e $path ]] || { say "missing        $path; run install again"; damaged=1; }
    done < <(manifest "$former")
    printf '%-14s %s\n' configuration /etc/trackandtrace configuration /etc/mailferry \
        data /var/lib/trackandtrace data /var/lib/mailferry logs /var/log/trackandtrace
    for unit in trackandtrace.service mailferry.service mailferry-collect.timer; do
        if systemd_runs; then
            say "$(printf '%-24s' "$unit") $(systemctl is-active "$unit" || true), $(systemctl is-enabled "$unit" 2>/dev/null || true)"
        else
            say "$(printf '%-24s' "$unit") in place; systemd does not run here"
        fi
    done
    exit "$damaged"
}

command=${1:-}
[[ $# -eq 0 ]] || shift
extras=() wheelhouse='' alone='' placing='' switched='' unfinished='' folder=''
former=$(readlink "$current" || true)
[[ ! -d $here/wheelhouse ]] || wheelhouse=$here/wheelhouse
while [[ $# -gt 0 ]]; do
    case $1 in
    --wheelhouse)
        [[ -d ${2:-} ]] || die "--wheelhouse: no such folder: ${2:-}"
        wheelhouse=$(readlink -f "$2")
        ;;
    --with)
        [[ ${2:-} == oauth || ${2:-} == postgres ]] || die "--with: oauth or postgres, not '${2:-}'"
        extras+=("$2")
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift 2
done

case $command in
install | upgrade | uninstall) [[ $EUID -eq 0 ]] || die "run it as root: sudo ./deployment/deploy.sh $command" ;;
status) status ;;
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
scratch=$(mktemp -d)
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
trap 'exit 141' PIPE # the reader of the output is gone
mkdir -p "$prefix"
exec 9>"$prefix/.lock"
flock -n 9 || die "another deploy.sh is at work; wait for its end"
alone=yes
former=$(readlink "$current" || true)
case $command in
uninstall) uninstall ;;
*) install_or_upgrade ;;
esac
