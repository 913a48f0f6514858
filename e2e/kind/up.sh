#!/bin/bash
# Creates the kind cluster NAME (default: imcluster) unless it exists, and waits until it can be used. Its node image is
# IMCLUSTER_KIND_NODE_IMAGE, or kind's public one if it can be pulled, or one that is built here.
#
#   up.sh [NAME]
set -euo pipefail
. "$(dirname "$0")/common.sh"
name=${1:-imcluster}
"$kind_folder/engine.sh"
[ -x "$programs/kind" ] && [ -x "$programs/helm" ] && [ -x "$programs/kubectl" ] || "$kind_folder/programs.sh"

if ! kind get clusters 2>/dev/null | grep --line-regexp --quiet "$name"; then
  image=${IMCLUSTER_KIND_NODE_IMAGE:-}
  if [ -z "$image" ]; then
    public=kindest/node:$(cat "$programs/kubernetes.version")
    if docker image inspect "$public" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$public" >/dev/null 2>&1; then
      image=$public
    else
      image=$("$kind_folder/node.sh")
    fi
  fi
  say "kind cluster $name of $image"
  # The policy is mounted from a folder that the engine can access.
  install -D -m 644 "$kind_folder/audit.yaml" "$cache/audit.yaml"
  sed "s|AUDIT_POLICY|$cache/audit.yaml|" "$kind_folder/cluster.yaml" >"$scratch/cluster.yaml"
  kind create cluster --name "$name" --image "$image" --config "$scratch/cluster.yaml" --wait 240s >&2
fi
kind export kubeconfig --name "$name" >&2
kubectl wait --for=condition=Ready nodes --all --timeout=240s >&2
kubectl --namespace kube-system rollout status deployment/coredns --timeout=180s >&2
kubectl --namespace local-path-storage rollout status deployment/local-path-provisioner --timeout=180s >&2
say "cluster $name is up: export KUBECONFIG=$KUBECONFIG PATH=$programs:\$PATH"
