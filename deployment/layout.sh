# shellcheck shell=sh
# What both ways of installing, deploy.sh and the Debian package, have in common: the files of a version and their places,
# the user, the folders, the configuration. Run as root, which makes and changes nothing below a folder that the service
# owns: the service could put a link in its way. `will_make PATH` is the caller's, called just before a path is made.

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
    folder root 0750 /etc/trackandtrace
    folder root 0750 /etc/mailferry
    folder $service_user 0750 /var/lib/trackandtrace
    folder $service_user 0750 /var/lib/mailferry
    folder $service_user 0750 /var/log/trackandtrace
    for name in pending processed failed logs; do
        as_service test -d /var/lib/trackandtrace/$name || as_service mkdir -m 0750 /var/lib/trackandtrace/$name ||
            echo "    the user $service_user cannot make /var/lib/trackandtrace/$name: ls -la /var/lib/trackandtrace"
    done
}

# folder OWNER MODE PATH, whose parent only root can change. One that is there is left as the administrator made it, unless the
# service could not use it.
folder() {
    if [ -d "$3" ]; then
        [ "$1" != root ] && [ "$(stat -L -c %U "$3")" = root ] || return 0
    else
        will_make "$3"
        mkdir -m 0700 "$3"
    fi
    chown "$1:$service_user" "$3"
    chmod "$2" "$3"
}

as_service() {
    runuser -u $service_user -- "$@"
}

# A first configuration from the examples in SHARE. One that is there is never touched; the administrator sees a message where the
# service cannot read it.
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
        will_make "$2"
        mv -n "$2.new" "$2"
    elif ! as_service test -r "$2"; then
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

# placed UNITS PREFIX ZSH: what is placed outside of the program, a line each: KIND SOURCE TARGET. A `file` is copied from the
# program's share, a `conf` as well unless it was changed by hand, a `link` points to its source.
placed() {
    program=/opt/mailferry/current
    for unit in trackandtrace.service mailferry.service mailferry-collect.service mailferry-collect.timer; do
        echo "file systemd/$unit $1/$unit"
    done
    if [ "$({ systemctl --version 2>/dev/null || echo "systemd 0"; } | awk 'NR == 1 { print int($2) }')" -ge 254 ]; then
        for unit in trackandtrace mailferry; do
            echo "file systemd/restart-steps.conf $1/$unit.service.d/50-restart-steps.conf"
        done
    fi
    echo "conf trackandtrace.logrotate /etc/logrotate.d/trackandtrace"
    for name in mailferry trackandtrace uzmanposta; do
        echo "link $program/bin/$name $2/bin/$name"
    done
    for name in start stop status logs test; do
        echo "link $program/share/mailferry/trackandtrace-command $2/bin/trackandtrace-$name"
    done
    echo "link $program/share/mailferry/completions/mailferry.bash $2/share/bash-completion/completions/mailferry"
    echo "link $program/share/mailferry/completions/mailferry.zsh $2/share/zsh/$3/_mailferry"
    echo "link $program/share/mailferry/completions/mailferry.fish $2/share/fish/vendor_completions.d/mailferry.fish"
}

systemd_runs() {
    [ -d /run/systemd/system ]
}
