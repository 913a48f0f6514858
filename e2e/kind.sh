#!/bin/bash
# Runs the cluster tests: creates a kind cluster (from kind's public node image, or from one that is built here if no registry
# can be reached), builds two versions of our programs, loads their images, runs the cases, and deletes the cluster.
#
#   e2e/kind.sh [--keep] [--reuse] [--no-build] [--cluster NAME] [--own] [-- OPTION…]
#
#   --keep      keep the cluster
#   --reuse     use the cluster if it exists, and keep it
#   --no-build  use the images and the test program as they are
#   --own       no kind: the cluster of KUBECONFIG, with images that it can pull
#   --cluster   the name of the kind cluster, imcluster by default
#   OPTION…     for the test program: --case NAME (repeatedly), --all, --rollouts N, --connections N …; --help lists them
#
# Needs root on Debian, or Docker, kind's programs and Rust. Build results are kept in ~/.cache/imcluster-kind (IMCLUSTER_KIND_CACHE).
# Exits with 3 if no cluster comes up, and with 1 if anything else fails.
# IMCLUSTER_KIND_CARGO is the command that compiles, cargo by default.
set -euo pipefail
keep=false reuse=false build=true own=false name=imcluster
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=true ;;
    --reuse) reuse=true keep=true ;;
    --no-build) build=false ;;
    --own) own=true ;;
    --cluster) name=${2:?--cluster NAME}; shift ;;
    --) shift; break ;;
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
    *) echo "kind.sh: unknown option $1; options of the test program follow --" >&2; exit 2 ;;
  esac
  shift
done
kind=$(cd "$(dirname "$0")/kind" && pwd)
given=${KUBECONFIG:-}
. "$kind/common.sh"
cargo=${IMCLUSTER_KIND_CARGO:-cargo}
version=0.1.0 next=0.1.1
part() { say "$1: $((SECONDS - since)) s"; since=$SECONDS; }
since=$SECONDS

if $own; then
  [ -n "$given" ] || fail "--own needs KUBECONFIG"
  export KUBECONFIG=$given
else
  "$kind/engine.sh"
  [ -x "$programs/kind" ] || "$kind/programs.sh"
  if ! $reuse && kind get clusters 2>/dev/null | grep --line-regexp --quiet "$name"; then
    fail "cluster $name exists: --reuse it, delete it with kind delete cluster --name $name, or choose another name"
  fi
  if ! $keep; then
    trap 'kind delete cluster --name "$name"; rm -rf "$scratch"' EXIT
  fi
  "$kind/up.sh" "$name" || exit 3
  part "cluster"
  if $build; then
    # The test program first: building another version replaces the programs beside it.
    (cd "$root" && $cargo build --release --workspace --bins)
    part "programs"
    mapfile -t archives < <("$kind/images.sh" "$version" "$next")
    printf '%s\n' "${archives[@]}" >"$cache/images/list"
    part "images"
  else
    mapfile -t archives <"$cache/images/list"
  fi
  "$kind/load.sh" "$name" "${archives[@]}"
  part "images loaded"
fi
cd "$root"
if $own && $build; then $cargo build --release --workspace --bins; fi
target=$($cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# The nodes have Debian's redis, which is older than the operator's default.
options=(); $own || options=(--redis-tag 7.0 --redis-next 7.0-next)
status=0
"$target/release/im-e2e" kubernetes --version "$version" --next "$next" "${options[@]}" --folder "$cache/runs/$(date +%Y%m%d-%H%M%S)" "$@" || status=$?
part "cases"
if ! $own; then
  # The definition is installed now, so ImClusters are checked too.
  HELM=$programs/helm ./tools/check-charts --server || status=$?
  part "charts on the API server"
fi
exit $status
