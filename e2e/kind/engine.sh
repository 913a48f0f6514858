#!/bin/bash
# Makes sure that a Docker engine is running: starts one if none is (Debian, as root).
set -euo pipefail
. "$(dirname "$0")/common.sh"
docker version >/dev/null 2>&1 && exit
debian_install dockerd=docker.io jq=jq capsh=libcap2-bin
options=()
held=$((16#$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)))
# Bit 24 is CAP_SYS_RESOURCE, which containers often lack.
(((held >> 24) & 1)) || options=(--add-runtime "less=$kind_folder/runtime.sh" --default-runtime less)
say "starting the Docker engine, log in $cache/dockerd.log"
setsid nohup /usr/sbin/dockerd "${options[@]}" >"$cache/dockerd.log" 2>&1 </dev/null &
for ((i = 0; i < 240; i++)); do
  docker version >/dev/null 2>&1 && exit
  sleep 0.25
done
tail -n 15 "$cache/dockerd.log" >&2
fail "the Docker engine does not start"
