#!/bin/bash
# A whole ImCluster on this machine: redis (a master, two replicas, three Sentinels), etcd, two logic and two connect
# processes, all on loopback and on known ports, with their data in one temporary folder.
#
#   e2e/local-cluster.sh start [--release] [--redis sentinel|single] [--offset N] [--wait-replicas N]
#   e2e/local-cluster.sh status|stop [--offset N]
#
# start   builds the programs, starts everything, waits until all of it is ready, and prints where clients connect and how
#         to get a token. Needs redis-server, redis-sentinel, redis-cli, etcd, etcdctl and curl.
# stop    stops what start has started (by process id, and nothing else), and removes the folder.
# status  prints what is running.
#
# Ports, to each of which --offset (default 0) is added:
#   connect-1  TCP 3101  WebSocket 3102  gRPC 3109  admin 9101
#   connect-2  TCP 3201  WebSocket 3202  gRPC 3209  admin 9102
#   logic-1    HTTP 3111                 gRPC 3119  admin 9111
#   logic-2    HTTP 3211                 gRPC 3219  admin 9112
#   redis 6401 6402 6403   Sentinels 6501 6502 6503   etcd 2401 (clients) 2402 (peers)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,/^set /p' "$0" | grep '^#' | sed 's/^# \{0,1\}//'; exit "${1:-2}"; }
fail() { echo "local-cluster: $*" >&2; exit 1; }

action=${1:-help}; [ $# -gt 0 ] && shift
profile=debug redis=sentinel offset=0 wait_replicas=
while [ $# -gt 0 ]; do
  case $1 in
    --release) profile=release ;;
    --redis) redis=${2:?--redis sentinel or single}; shift ;;
    --offset) offset=${2:?--offset NUMBER}; shift ;;
    --wait-replicas) wait_replicas=${2:?--wait-replicas NUMBER}; shift ;;
    *) echo "local-cluster: unknown option $1" >&2; usage ;;
  esac
  shift
done
case $redis in sentinel|single) ;; *) fail "--redis $redis: write sentinel or single" ;; esac
case $offset in ''|*[!0-9]*) fail "--offset $offset: write a number" ;; esac
[ -n "$wait_replicas" ] || { [ "$redis" = sentinel ] && wait_replicas=1 || wait_replicas=0; }

folder=${TMPDIR:-/tmp}/imcluster-local-$(id -u)-$offset
secret="local cluster secret, at least thirty-two bytes"
port() { echo $(($1 + offset)); }

# begin NAME COMMAND…: starts it in the background and keeps its process id and start time.
begin() {
  local name=$1; shift
  # In a session of its own, so that a Ctrl-C for this script does not reach the cluster.
  setsid "$@" >"$folder/$name.log" 2>&1 </dev/null &
  local pid=$!
  echo "$pid $(started "$pid")" >"$folder/$name.pid"
}

# When a process was started, in clock ticks since boot: distinguishes it from a later one with the same id.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

alive() {
  local pid since
  read -r pid since <"$folder/$1.pid" 2>/dev/null || return 1
  [ -n "$since" ] && [ "$(started "$pid")" = "$since" ]
}

names() { for file in "$folder"/*.pid; do [ -e "$file" ] && basename "$file" .pid; done; }

# until SECONDS WHAT COMMAND…: waits until the command succeeds.
until_true() {
  local timeout=$1 what=$2 deadline; shift 2
  deadline=$((SECONDS + timeout))
  until "$@" >/dev/null 2>&1; do
    for name in $(names); do
      alive "$name" || { tail -5 "$folder/$name.log" >&2; fail "$name has exited; the logs are in $folder"; }
    done
    [ $SECONDS -lt $deadline ] || fail "timed out after ${timeout}s: $what; the logs are in $folder"
    sleep 0.1
  done
}

start_redis() {
  local number masters
  mkdir "$folder"/redis-{1,2,3}
  for number in 1 2 3; do
    [ "$redis" = single ] && [ $number != 1 ] && break
    local replica=(); [ $number != 1 ] && replica=(--replicaof "127.0.0.1 $(port 6401)")
    begin redis-$number redis-server --bind 127.0.0.1 --port "$(port 640$number)" --dir "$folder/redis-$number" \
      --appendonly yes --save '' --maxmemory-policy noeviction --repl-diskless-sync-delay 0 --repl-diskless-load on-empty-db \
      "${replica[@]}"
  done
  until_true 20 "redis answers" redis-cli -p "$(port 6401)" ping
  [ "$redis" = single ] && return
  for number in 1 2 3; do
    cat >"$folder/sentinel-$number.conf" <<CONF
bind 127.0.0.1
port $(port 650$number)
dir $folder
sentinel monitor im 127.0.0.1 $(port 6401) 2
sentinel down-after-milliseconds im 2000
sentinel failover-timeout im 10000
CONF
    begin sentinel-$number redis-sentinel "$folder/sentinel-$number.conf"
  done
  in_sync() { redis-cli -p "$(port 6401)" info replication | grep -c 'state=online' | grep -qx 2; }
  agreed() { redis-cli -p "$(port 650$1)" info sentinel | grep -q 'slaves=2,sentinels=3'; }
  until_true 30 "both replicas are in sync" in_sync
  for number in 1 2 3; do until_true 30 "Sentinel $number knows the others" agreed "$number"; done
}

start_etcd() {
  local clients peers
  clients=http://127.0.0.1:$(port 2401) peers=http://127.0.0.1:$(port 2402)
  begin etcd etcd --name one --data-dir "$folder/etcd" --listen-client-urls "$clients" --advertise-client-urls "$clients" \
    --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "one=$peers"
  until_true 20 "etcd answers" env ETCDCTL_API=3 etcdctl --endpoints "$clients" endpoint health
}

# begin_im NAME BINARY NAME=VALUE… : starts one of our processes with these settings.
begin_im() {
  local name=$1 binary=$2; shift 2
  # Variables of this shell for imctl or another server are unset.
  begin "$name" env $(compgen -e IM_ | sed 's/^/-u /') IM_NODE="$name" IM_REDIS_URL="$redis_url" IM_ETCD_ENDPOINTS="http://127.0.0.1:$(port 2401)" \
    IM_PEER_SECRET="local cluster peers, at least thirty-two bytes" "$@" "$programs/$binary"
}

start() {
  for name in $(names); do alive "$name" && fail "$name is already running: stop it first, or use another --offset"; done
  for program in redis-server redis-sentinel redis-cli etcd etcdctl curl setsid; do
    command -v $program >/dev/null || fail "$program is missing (Debian: redis-server redis-sentinel redis-tools etcd-server etcd-client curl util-linux)"
  done
  if [ -n "${PROGRAMS:-}" ]; then
    programs=$PROGRAMS
  else
    (cd "$root" && cargo build $([ $profile = release ] && echo --release) -p im-connect -p im-logic -p imctl)
    programs=$(cd "$root" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$profile
  fi
  rm -rf "$folder"; mkdir -m 700 "$folder"
  trap stop_all EXIT
  start_redis; start_etcd
  redis_url=redis://127.0.0.1:$(port 6401)/
  [ "$redis" = sentinel ] && redis_url=redis+sentinel://127.0.0.1:$(port 6501),127.0.0.1:$(port 6502),127.0.0.1:$(port 6503)/im
  local number own
  for number in 1 2; do
    own=$((number - 1))
    begin_im logic-$number im-logic IM_HTTP_LISTEN="127.0.0.1:$(port $((3111 + 100 * own)))" \
      IM_GRPC_LISTEN="127.0.0.1:$(port $((3119 + 100 * own)))" IM_ADMIN_LISTEN="127.0.0.1:$(port $((9111 + own)))" \
      IM_AUTH_HS256_SECRET="$secret" IM_REDIS_WAIT_REPLICAS="$wait_replicas"
    begin_im connect-$number im-connect IM_TCP_LISTEN="127.0.0.1:$(port $((3101 + 100 * own)))" \
      IM_WS_LISTEN="127.0.0.1:$(port $((3102 + 100 * own)))" IM_GRPC_LISTEN="127.0.0.1:$(port $((3109 + 100 * own)))" \
      IM_ADVERTISE_TCP="127.0.0.1:$(port $((3101 + 100 * own)))" IM_ADVERTISE_WS="127.0.0.1:$(port $((3102 + 100 * own)))" \
      IM_ADMIN_LISTEN="127.0.0.1:$(port $((9101 + own)))"
  done
  for number in 9101 9102 9111 9112; do
    until_true 40 "the process with admin port $(port $number) is ready" curl -fsS "http://127.0.0.1:$(port $number)/readyz"
  done
  trap - EXIT
  cat <<READY
The cluster is ready; logs and data are in $folder

  connect-1  tcp://127.0.0.1:$(port 3101)  ws://127.0.0.1:$(port 3102)/ws  admin http://127.0.0.1:$(port 9101)
  connect-2  tcp://127.0.0.1:$(port 3201)  ws://127.0.0.1:$(port 3202)/ws  admin http://127.0.0.1:$(port 9102)
  logic-1    http://127.0.0.1:$(port 3111)  admin http://127.0.0.1:$(port 9111)
  logic-2    http://127.0.0.1:$(port 3211)  admin http://127.0.0.1:$(port 9112)
  redis      $redis_url
  etcd       http://127.0.0.1:$(port 2401)

Two people on different nodes, in two terminals:

  export IM_AUTH_HS256_SECRET='$secret'
  $programs/imctl chat --address tcp://127.0.0.1:$(port 3101) --user ada --with grace
  $programs/imctl chat --address ws://127.0.0.1:$(port 3202)/ws --user grace --with ada

A token: $programs/imctl token --user ada --rooms 'hall*'
To stop it: $0 stop$([ "$offset" = 0 ] || echo " --offset $offset")
READY
}

# stop_one NAME: SIGTERM, and SIGKILL if that is not enough.
stop_one() {
  local pid since
  read -r pid since <"$folder/$1.pid"
  alive "$1" && kill -TERM "$pid" 2>/dev/null || true
  local deadline=$((SECONDS + 20))
  while alive "$1" && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
  alive "$1" && kill -KILL "$pid" 2>/dev/null || true
  rm -f "$folder/$1.pid"
}

stop_all() {
  [ -d "$folder" ] || { echo "local-cluster: nothing was started here"; return 0; }
  local kind name stopping
  # Users of a service stop before the service.
  for kind in connect logic etcd sentinel redis; do
    stopping=()
    for name in $(names); do case $name in "$kind"*) stop_one "$name" & stopping+=($!) ;; esac; done
    [ ${#stopping[@]} = 0 ] || wait "${stopping[@]}"
  done
}

case $action in
  start) start ;;
  stop) stop_all; rm -rf "$folder" ;;
  status) for name in $(names); do alive "$name" && echo "$name is running" || echo "$name has exited"; done ;;
  help|-h|--help) usage 0 ;;
  *) usage ;;
esac
