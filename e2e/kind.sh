#!/bin/bash
# Plays the cluster tests: brings a kind cluster up (of kind's public node image, or of one that is built here where no
# registry can be reached), builds two versions of our programs and loads their images, plays the cases, and removes it all.
#
#   e2e/kind.sh [--keep] [--reuse] [--no-build] [--cluster NAME] [--own] [-- OPTION…]
#
#   --keep      leave the cluster there
#   --reuse     use the cluster if it is there, and leave it there
#   --no-build  use the images and the test program as they are
#   --own       no kind: the cluster that KUBECONFIG names, with images that it can pull
#   --cluster   the kind cluster's name, imcluster unless given
#   OPTION…     for the test program: --case NAME (repeatedly), --all, --rollouts N, --connections N …; --help lists them
#
# Needs root on Debian, or Docker, kind's programs and Rust. What is built is kept in ~/.cache/imcluster-kind (IMCLUSTER_KIND_CACHE).
# Ends with 3 where no cluster comes up, otherwise with 1 where anything else fails.
# IMCLUSTER_KIND_CARGO is the command that compiles, cargo unless given.
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
    *) echo "kind.sh: unknown: $1; options of the test program come after --" >&2; exit 2 ;;
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
    fail "a cluster $name is there: --reuse it, remove it with kind delete cluster --name $name, or take another name"
  fi
  if ! $keep; then
    trap 'kind delete cluster --name "$name"; rm -rf "$scratch"' EXIT
  fi
  "$kind/up.sh" "$name" || exit 3
  part "cluster"
  if $build; then
    # The test program first: a build of another version changes what lies beside it.
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
# The redis that was put on the nodes is Debian's, which is older than what the operator takes by itself.
options=(); $own || options=(--redis-tag 7.0 --redis-next 7.0-next)
status=0
"$target/release/im-e2e" kubernetes --version "$version" --next "$next" "${options[@]}" --folder "$cache/runs/$(date +%Y%m%d-%H%M%S)" "$@" || status=$?
part "cases"
if ! $own; then
  # The definition is there now, so ImClusters are checked as well.
  HELM=$programs/helm ./tools/check-charts --server || status=$?
  part "charts on the API server"
fi
exit $status
