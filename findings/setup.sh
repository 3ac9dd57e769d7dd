# What the scripts of this folder share; sourced, not run.
#
# environment PACKAGE…   makes a virtual environment with these packages of PyPI; its programs come first in PATH
# debian PACKAGE…        fetches these Debian packages and unpacks them into $debs, without installing them
# seen TEXT / changed TEXT   prints the result; the first ends with 0, the second with 1
#
# Everything is in $here, a temporary folder, and goes with it. FINDINGS_KEEP=FOLDER keeps environments there for the
# next script that wants the same. What cannot be fetched ends the script with 77.
set -eu
here=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'status=$?; trap - EXIT; cleanup; rm -rf "$here"; exit $status' EXIT
trap 'exit 130' INT TERM
export HOME="$here" OMP_NUM_THREADS=1
cd "$here"

cleanup() { :; }

cannot() {
    echo "cannot be tried here: $1" >&2
    exit 77
}

environment() {
    folder="${FINDINGS_KEEP:-$here}/$(echo "$@" | tr -c 'a-zA-Z0-9.\n' '_')"
    if [ ! -e "$folder/ready" ]; then
        python3 -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2>"$here/pip.log" ||
            cannot "pip install $*: $(tail -n 1 "$here/pip.log")"
        touch "$folder/ready"
    fi
    PATH="$folder/bin:$PATH"
    export PATH
    echo "versions:  $("$folder/bin/python" -V), $(echo "$@" | tr ' ' ',')"
}

debian() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || cannot "there is no apt-get"
    debs="$here/debs"
    mkdir "$debs"
    (cd "$debs" && apt-get download "$@" >"$here/apt.log" 2>&1) || cannot "apt-get download $*: $(tail -n 1 "$here/apt.log")"
    for package in "$debs"/*.deb; do dpkg -x "$package" "$debs"; done
    echo "versions:  $(cd "$debs" && ls ./*.deb | sed 's#^\./##; s/_amd64.deb//' | tr '\n' ' ')"
}

seen() {
    echo "seen:      $1"
    exit 0
}

changed() {
    echo "CHANGED:   $1"
    exit 1
}
