# shellcheck shell=sh
# What both ways of installing, deploy.sh and the Debian package, have in common: the files of a version, the user, the
# folders, the configuration. Run as root. `will_make PATH [CONTENT]` is the caller's, and told of everything that was not there, just before it is.

service_user=trackandtrace

# The service's user; it owns data and logs and can read the configuration.
make_user() {
    if ! getent passwd $service_user >/dev/null; then
        will_make "user:$service_user"
        useradd --system --user-group --home-dir /var/lib/trackandtrace --no-create-home \
            --shell /usr/sbin/nologin --comment "mailferry" $service_user
    fi
}

make_folders() {
    folder root $service_user 0750 /etc/trackandtrace
    folder root $service_user 0750 /etc/mailferry
    folder $service_user $service_user 0750 /var/lib/trackandtrace
    for name in pending processed failed logs; do
        folder $service_user $service_user 0750 /var/lib/trackandtrace/$name
    done
    folder $service_user $service_user 0750 /var/lib/mailferry
    folder $service_user $service_user 0750 /var/log/trackandtrace
}

# folder OWNER GROUP MODE PATH. One that is there is left as somebody set it up, unless the service could not use it.
folder() {
    if [ -d "$4" ]; then
        [ "$1" = root ] || [ "$(stat -c %U "$4")" != root ] || install -d -o "$1" -g "$2" -m "$3" "$4"
        return 0
    fi
    will_make "$4"
    install -d -o "$1" -g "$2" -m "$3" "$4"
}

# A first configuration from the examples in SHARE; one that is there is never touched, only told of where the service could
# not read it.
make_configuration() {
    example "$1/config.env.example" /etc/trackandtrace/config.env
    for name in mailferry.toml uzmanposta.ini; do
        example "$1/$name.example" /etc/mailferry/$name.example
    done
}

# example FROM TO. In one step: a half-written file would be kept for ever.
example() {
    if [ ! -e "$2" ] && [ ! -L "$2" ]; then
        will_make "$2.new"
        install -o root -g $service_user -m 0640 "$1" "$2.new"
        will_make "$2" "$1"
        mv -n "$2.new" "$2"
    elif ! runuser -u $service_user -- test -r "$2"; then
        echo "    the user $service_user cannot read $2: chgrp $service_user ${2%/*} $2 && chmod g+rx ${2%/*} && chmod g+r $2"
    fi
}

# fill_share PROGRAM SOURCES: what is placed elsewhere later, or copied by people, goes with each version.
fill_share() {
    share=$1/share/mailferry
    mkdir -p "$share/completions" "$share/systemd" "$share/docs"
    cp "$2"/systemd/* "$share/systemd/"
    cp "$2/docs/install.md" "$share/docs/"
    cp "$2"/*.example "$2"/deployment/*.example "$2"/deployment/*.logrotate "$2"/deployment/*.py \
        "$2"/deployment/layout.sh "$2"/deployment/trackandtrace-command "$share/"
    chmod 755 "$share/trackandtrace-command" "$share/uzmanposta.py"
}

# complete_shells PROGRAM: what a shell needs to complete the command's words, as the program itself writes it.
complete_shells() {
    for shell in bash zsh fish; do
        _MAILFERRY_COMPLETE=source_$shell "$1/bin/mailferry" \
            >"$1/share/mailferry/completions/mailferry.$shell" || return 1
    done
}

systemd_runs() {
    [ -d /run/systemd/system ]
}
