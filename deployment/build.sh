# shellcheck shell=bash disable=SC2154 # the caller sets what is said below
# How deploy.sh and the Debian package make a program: a virtual environment with the locked packages, the program's wheel and
# what is placed elsewhere. The caller sets: sources, wheelhouse (empty: the package index), scratch, and "die MESSAGE".

find_python() {
    python=$(command -v python3) || die "python3 is missing: apt-get install python3"
    "$python" -Ic 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Python 3.11 or later is needed (Debian 12, Ubuntu 24.04 or later), not $("$python" -V)"
}

# Of the wheelhouse, or of the system: the machine needs no python3-venv. Sets pip, and offline.
find_pip() {
    offline=()
    if [[ -n $wheelhouse ]]; then
        pip=$(find "$wheelhouse" -maxdepth 1 -name 'pip-*.whl' | sort -V | tail -n 1)
        [[ -n $pip ]] || die "$wheelhouse has no pip-*.whl; make a wheelhouse with: ./dev wheelhouse DIR"
        offline=(--no-index --find-links "$wheelhouse")
    else
        pip=''
        "$python" -Im pip --version >/dev/null 2>&1 ||
            DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-pip >/dev/null ||
            die "apt-get could not install python3-pip; try apt-get update first, or install offline with --wheelhouse"
    fi
}

# pip_in VENV VERB ARGUMENT...
pip_in() {
    local venv=$1 verb=$2 run=("$1/bin/python" "$pip/pip")
    shift 2
    [[ -n $pip ]] || run=("$python" -Im pip --python "$venv/bin/python")
    "${run[@]}" "$verb" --quiet --no-input --no-cache-dir --disable-pip-version-check "${offline[@]}" "$@"
}

# The program's wheel: the one in the wheelhouse, or made of the sources around this script. Sets wheel, and version.
find_wheel() {
    local found=()
    [[ -z $wheelhouse ]] || mapfile -t found < <(find "$wheelhouse" -maxdepth 1 -name 'mailferry-*.whl')
    [[ ${#found[@]} -le 1 ]] || die "$wheelhouse has several versions of mailferry; keep one: ${found[*]##*/}"
    if [[ ${#found[@]} -eq 0 ]]; then
        echo "==> Building the wheel from $sources"
        [[ -f $sources/pyproject.toml ]] || die "no mailferry-*.whl in the wheelhouse, and no sources in $sources"
        "$python" -Im venv --without-pip "$scratch/build"
        pip_in "$scratch/build" install --require-hashes -r "$sources/deployment/requirements/build.txt"
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

# build_program FOLDER EXTRA...
build_program() {
    local folder=$1 extra shell locks=(-r "$sources/requirements/runtime.txt")
    shift
    for extra in "$@"; do
        locks+=(-r "$sources/deployment/requirements/$extra.txt")
    done
    mkdir -p "${folder%/*}"
    "$python" -Im venv --without-pip "$folder"
    pip_in "$folder" install --no-compile --require-hashes "${locks[@]}"
    pip_in "$folder" install --no-compile --no-deps "$wheel"
    fill_share "$folder" "$sources"
    # What a shell needs to complete the command's words, as the program itself writes it.
    for shell in bash zsh fish; do
        _MAILFERRY_COMPLETE=source_$shell "$folder/bin/mailferry" >"$folder/share/mailferry/completions/mailferry.$shell" ||
            die "the new program does not start (see above); nothing was changed"
    done
}
