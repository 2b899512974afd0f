# shellcheck shell=bash disable=SC2154 # the caller sets what is said below
# The versions in /opt/mailferry/versions: made, checked, placed, switched to, and left again. For deploy.sh, which sets `folder`
# (the new version), `former` (the present one, or nothing) and `extras`.

prefix=/opt/mailferry
current=$prefix/current
backups=/var/backups/mailferry
#: Where `placed` puts units, commands and zsh's completion.
places=(/etc/systemd/system /usr/local site-functions)
#: There while a version is being switched to: the services to start again, a line each, for the run that ends the work.
switching=$prefix/.switching
#: What an upgrade restarts; a collecting run that is under way ends by itself.
services=(trackandtrace.service mailferry.service)
#: Behind the name of what is being written and not in place yet.
half=.mailferry-new
#: Seconds in which a restarted service must not fail.
patience=20
#: What this run has made, the last first; what it replaced; what it leaves on removal.
made=() kept=() left=()

version_of() {
    cat "$1/share/mailferry/version" 2>/dev/null || echo unknown
}

# Two installations from the same things are the same one.
fingerprint() {
    {
        "$python" -VV
        printf '%s\n' "${extras[@]}"
        placed "${places[@]}"
        cat "$wheel" "$sources/requirements/runtime.txt"
        find "$here" "$sources/systemd" "$sources"/*.example "$sources/docs/install.md" \
            -path "$wheelhouse" -prune -o -type f -print0 | sort -z | xargs -0 cat
    } | sha256sum | cut -c 1-12
}

# A complete version in its own folder, which carries everything that is placed elsewhere later.
build() {
    local share=$folder/share/mailferry
    rm -rf "$folder"
    build_program "$folder" "${extras[@]}"
    # On all cores; a file that is for another Python is none of the program's and does not compile.
    "$folder/bin/python" -Im compileall -q -j 0 "$folder/lib" >/dev/null || true
    placed "${places[@]}" >"$share/manifest"
    printf '%s\n' "${extras[@]}" >"$share/extras"
    echo "$version" >"$share/version"
    sync -f "$folder"
    : >"$folder/.complete"
}

# Nothing is switched to a program that does not start, or that refuses a configuration which the present one takes.
check_program() {
    local name said file
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
    as_service "$1/bin/mailferry" config check --config "$2" >/dev/null
}

# manifest VERSION...: the lines of `placed` that they were built with.
manifest() {
    local version
    for version in "$@"; do cat "$version/share/mailferry/manifest" 2>/dev/null || true; done
}

# original SOURCE TARGET: the target is as a version on this machine placed it.
original() {
    local version
    [[ $(readlink "$2") != "$prefix"/* ]] || return 0
    for version in "$prefix"/versions/*; do
        ! cmp -s "$version/share/mailferry/$1" "$2" || return 0
    done
    return 1
}

# place VERSION: its units, commands and settings, each in one step; what only other versions placed is removed.
place() {
    local kind source target
    while read -r kind source target; do
        if [[ -e $target || -L $target ]] && ! original "$source" "$target"; then
            if [[ $kind == conf && -n $former ]]; then
                echo "    $target was changed here and stays; this version's is $current/share/mailferry/$source"
                continue
            fi
            mkdir -p "$backups${target%/*}"
            cp -a "$target" "$backups$target"
            kept+=("$target")
            echo "    $target was changed, or not from this installation; a copy is in $backups$target"
        fi
        parents "${target%/*}"
        if [[ $kind == link ]]; then
            ln -sfn "$source" "$target$half"
        else
            install -m 644 "$1/share/mailferry/$source" "$target$half"
        fi
        mv -T "$target$half" "$target"
    done < <(manifest "$1")
    remove_placed < <(manifest "$prefix"/versions/* | grep -vxFf <(manifest "$1"))
}

# Removes what the lines on standard input placed; what was changed by hand is left, but for units of a program that goes.
remove_placed() {
    local kind source target
    while read -r kind source target; do
        rm -f "$target$half"
        if original "$source" "$target" || [[ $kind == file && $command == uninstall && -n $former ]]; then
            rm -f "$target"
        elif [[ -e $target ]]; then
            left+=("$target")
        fi
    done
}

parents() {
    [[ -d $1 ]] || {
        parents "${1%/*}"
        will_make "$1"
        mkdir -m 755 "$1"
    }
}

will_make() { made=("$1" "${made[@]}"); }

point_to() {
    ln -sfn "$1" "$prefix/.current.new"
    mv -T "$prefix/.current.new" "$current"
}

reload() {
    ! systemd_runs || systemctl daemon-reload
}

# The services that run now, and those that a run which was cut off had still to start again.
note_services() {
    local unit
    {
        cat "$switching" 2>/dev/null || true
        ! systemd_runs || for unit in "${services[@]}"; do
            case $(systemctl is-active "$unit") in
            active | activating | reloading) echo "$unit" ;;
            esac
        done
    } | sort -u >"$switching.new"
    mv -T "$switching.new" "$switching"
}

# Services that ran are started again, and have some time to show that they can.
restart() {
    local unit state second
    for unit in $(<"$switching"); do
        step "Restarting $unit"
        systemctl restart --no-block "$unit"
        for ((second = 0; second < patience; second++)); do
            sleep 1
            state=$(systemctl show -p ActiveState --value "$unit")
            [[ $state != failed && $(systemctl show -p SubState --value "$unit") != auto-restart* ]] ||
                die "$unit does not run with the new version: journalctl -u $unit"
            [[ $state != active || $second -lt 3 ]] || break
        done
        echo "    $unit is $state"
    done
}

# Back to the version before, or to nothing. `switched` says whether services have seen the new one.
go_back() {
    local path
    warn "taking back what was changed"
    if [[ -n $former ]]; then
        place "$former" >/dev/null
        point_to "$former"
    else
        rm -f "$current"
        remove_placed < <(manifest "$folder")
    fi
    for path in "${kept[@]}"; do
        cp -a --remove-destination "$backups$path" "$path"
    done
    for path in "${made[@]}"; do
        if [[ $path == user:* ]]; then
            # What was put into one of the folders meanwhile belongs to the user.
            [[ -e /var/lib/trackandtrace || -e /etc/trackandtrace ]] || userdel "${path#user:}"
        elif [[ -d $path ]]; then
            [[ $path != /var/lib/trackandtrace ]] || as_service rmdir "$path"/{pending,processed,failed,logs} 2>/dev/null
            rmdir --ignore-fail-on-non-empty "$path"
        else
            rm -f "$path"
        fi
    done
    reload
    [[ -z $switched ]] || for path in $(<"$switching"); do
        systemctl restart --no-block "$path" || warn "could not start $path again; look at: journalctl -u $path"
    done
    rm -f "$switching" "$switching.new"
}
