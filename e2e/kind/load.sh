#!/bin/bash
# Loads image archives into the workers of the kind cluster NAME, unless they are loaded already.
#
#   load.sh NAME ARCHIVE…
set -euo pipefail
. "$(dirname "$0")/common.sh"
name=${1:?the cluster\'s name}; shift
for node in $(kind get nodes --name "$name" | grep --invert-match control-plane); do
  present=$(docker exec "$node" sh -c 'cat /kind/loaded 2>/dev/null || true')
  for archive; do
    key=$(basename "$archive")
    grep --line-regexp --fixed-strings --quiet "$key" <<<"$present" && continue
    # As `kind load image-archive` does, but that first runs a program that our nodes do not have.
    docker exec --interactive --privileged "$node" ctr --namespace k8s.io images import --all-platforms --digests --snapshotter=overlayfs - <"$archive" >/dev/null
    docker exec "$node" sh -c "echo '$key' >>/kind/loaded"
  done &
done
wait
say "images are on the nodes"
