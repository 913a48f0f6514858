#!/bin/bash
# Builds kind, kubectl, helm and everything that runs on a node from Go modules into the cache. The first time takes 10 to
# 20 minutes on two cores, later ones seconds.
#
#   programs.sh [NAME…]   builds only these: programs.sh helm
set -euo pipefail
. "$(dirname "$0")/common.sh"
command -v go >/dev/null || fail "go 1.26 or newer is missing: https://go.dev/dl"
export CGO_ENABLED=0 GOFLAGS=${GOFLAGS:+$GOFLAGS }-buildvcs=false
only=" $* "
cd "$kind_folder/go"
kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  stamp+=" -X $package.gitTreeState=clean -X $package.gitCommit=modules"
done
# The version of Kubernetes that helm assumes when it renders without a cluster.
for package in chartutil lint/rules; do
  stamp+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$(cut -d. -f2 <<<"$kubernetes")"
done
stamp+=" -X helm.sh/helm/v3/internal/version.version=$(go list -m -f '{{.Version}}' helm.sh/helm/v3)"

program() { # NAME PACKAGE
  [[ $only = "  " || $only = *" $1 "* ]] || return 0
  nice -n "${IMCLUSTER_KIND_NICE:-10}" go build -trimpath -ldflags "-s -w$stamp" -o "$programs/$1" "$2"
  say "built $1"
}
program kind sigs.k8s.io/kind
program pause ./pause
program kube ./kube
# In a command of its own: it spells a module's path in another case than the others, which go refuses.
program local-path-provisioner github.com/rancher/local-path-provisioner
program helm helm.sh/helm/v3/cmd/helm
(cd ../coredns && program coredns .)
program etcd go.etcd.io/etcd/server/v3
[ "$only" = "  " ] || exit 0
for name in kubectl kubeadm; do ln -sf kube "$programs/$name"; done
echo "$kubernetes" >"$programs/kubernetes.version"
