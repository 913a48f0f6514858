#!/bin/bash
# Makes a kind node image without any image registry: Kubernetes, etcd and CoreDNS are built from Go modules, the system
# comes from Debian packages. Prints the image's name. Needs root on Debian and go.
set -euo pipefail
. "$(dirname "$0")/common.sh"
debian_install mmdebstrap=mmdebstrap jq=jq
"$kind_folder/engine.sh"
[ "${IMCLUSTER_KIND_PROGRAMS:-build}" = kept ] || "$kind_folder/programs.sh"
kubernetes=$(cat "$programs/kubernetes.version")
name=localhost/imcluster-node:$kubernetes

parts=("$programs"/{kube,coredns,pause,local-path-provisioner} "$kind_folder"/node/* "$kind_folder"/{common,node}.sh)
made_of=$(fingerprint "${parts[@]}")
if [ "$(docker image inspect --format '{{index .Config.Labels "made-of"}}' "$name" 2>/dev/null)" = "$made_of" ]; then
  echo "$name"
  exit
fi

packages=systemd,containerd,runc,containernetworking-plugins,iproute2,iptables,nftables,conntrack,ethtool,socat,mount,kmod,e2fsprogs
packages+=,procps,jq,curl,ca-certificates,busybox-static
system=$cache/node-$(printf '%s\n' "$debian" "$packages" "${unread[@]}" | sha256sum | cut -c1-12).tar
if [ ! -f "$system" ]; then
  say "Debian packages of the node"
  mmdebstrap --quiet --variant=minbase --format=tar --include="$packages" "${unread[@]}" "$debian" "$system.new" >&2
  mv "$system.new" "$system"
fi
node=$scratch/node
mkdir "$node"
tar --extract --file "$system" --directory "$node" --numeric-owner

say "images of the cluster's own pods"
asked=$("$programs/kubeadm" config images list --kubernetes-version "$kubernetes" 2>/dev/null)
asked_for() { grep -E "/($1):" <<<"$asked" | paste -sd' '; } # the names under which kubeadm looks for programs
put() { install -D -m 755 "$programs/$2" "$scratch/$1/$3"; } # TREE PROGRAM PATH

put kube kube usr/local/bin/kube
for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd podnet; do
  ln -s kube "$scratch/kube/usr/local/bin/$program"
done
put coredns coredns coredns; put pause pause pause; put storage local-path-provisioner usr/local/bin/local-path-provisioner
install -D -m 755 "$node/bin/busybox" "$scratch/busybox/bin/busybox"
for program in sh mkdir rm; do ln -s busybox "$scratch/busybox/bin/$program"; done
for program in {iptables,ip6tables}{,-save,-restore}; do
  mkdir -p "$scratch/tables/usr/sbin"; ln -s xtables-nft-multi "$scratch/tables/usr/sbin/$program"
done

from_kind=$(cd "$kind_folder/go" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files # what kind puts on a node
pause_name=$(sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p' "$from_kind/etc/containerd/config.toml")
kube=$(pack "$scratch/kube"); images=$scratch/images
add_image "$images" "$(asked_for 'kube-(apiserver|controller-manager|scheduler)|etcd')" '{}' "$kube"
add_image "$images" "$(asked_for kube-proxy) localhost/kube-net:1" '{}' "$kube" "$(debian_tree iptables nftables)" "$(pack "$scratch/tables")"
add_image "$images" "$(asked_for coredns)" '{"Entrypoint": ["/coredns"]}' "$(pack "$scratch/coredns")"
add_image "$images" "$pause_name" '{"Entrypoint": ["/pause"]}' "$(pack "$scratch/pause")"
add_image "$images" localhost/local-path-provisioner:1 '{"Entrypoint": ["local-path-provisioner"]}' "$(pack "$scratch/storage")"
add_image "$images" localhost/busybox:1 '{}' "$(pack "$scratch/busybox")"
close_archive "$images" "$node/images.tar"

say "the node"
cp --recursive --no-preserve=mode,ownership "$from_kind"/{etc,usr,kind} "$node/"
find "$node/kind" -path '*/bin*' -exec chmod 755 {} +
chmod 755 "$node/kind" "$node/usr/local/bin"/*
install -m 755 "$programs/kube" "$node/usr/bin/kube"
for program in kubelet kubeadm kubectl; do ln -s kube "$node/usr/bin/$program"; done
printf '%s' "$kubernetes" >"$node/kind/version"
install -D -m 644 "$kind_folder/node/network.yaml" "$node/kind/manifests/default-cni.yaml"
install -D -m 644 "$kind_folder/node/storage.yaml" "$node/kind/manifests/default-storage.yaml"
install -m 755 "$kind_folder/node/install.sh" "$node/install.sh"
unshare --mount --pid --fork --root="$node" --mount-proc /install.sh >&2

say "the node's image"
add_image "$scratch/archive" "$name" "$(jq --null-input --arg made_of "$made_of" '{Entrypoint: ["/usr/local/bin/entrypoint", "/sbin/init"],
  Env: ["container=docker"], StopSignal: "SIGRTMIN+3", Labels: {"made-of": $made_of}}')" "$(pack "$node")"
close_archive "$scratch/archive" "$scratch/archive.tar"
docker load --quiet --input "$scratch/archive.tar" >&2
say "$name"
echo "$name"
