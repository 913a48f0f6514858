#!/bin/bash
# Runs once with the node's tree as its root, while the node image is made.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin

# systemd starts in a container: nothing for devices, logins, mounts or temporary files.
cd /lib/systemd/system
rm -f {basic,local-fs,multi-user}.target.wants/* sysinit.target.wants/systemd-tmpfiles-setup.service \
  sockets.target.wants/*udev* sockets.target.wants/*initctl* /etc/systemd/system/*.wants/*
cd /
printf 'ReadKMsg=no\n' >>/etc/systemd/journald.conf
ln -sf /usr/lib/systemd/systemd /usr/sbin/init
systemctl --quiet mask systemd-binfmt
systemctl --quiet enable containerd kubelet undo-mount-hacks

# kind expects some programs elsewhere than Debian puts them.
mkdir -p /opt/cni /etc/cni/net.d /etc/kubernetes/manifests
ln -s /usr/lib/cni /opt/cni/bin
ln -s /usr/sbin/runc /usr/local/sbin/runc
ln -s /usr/bin/containerd /usr/bin/containerd-shim-runc-v2 /usr/local/bin/
cat >/usr/local/bin/ctr <<'CTR'
#!/bin/sh
# kind asks `ctr info` whether containerd is up; this containerd is older than that command.
case $1 in info) exec /usr/bin/ctr version ;; *) exec /usr/bin/ctr "$@" ;; esac
CTR
chmod 755 /usr/local/bin/*

# Every container: kind's hook; no limits and no OOM scores that the machine may not grant.
ctr oci spec | jq 'del(.process.rlimits) | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' >/etc/containerd/cri-base.json
sed -i 's/\(restrict_oom_score_adj = \)false/\1true/' /etc/containerd/config.toml

# The images of the cluster's own pods go into containerd's store.
containerd --log-level error &
for ((i = 0; i < 120; i++)); do ctr version >/dev/null 2>&1 && break; sleep 0.25; done
ctr --namespace k8s.io images import --all-platforms --no-unpack /images.tar
kill %1; wait || true
rm -rf /images.tar /install.sh /run/* /tmp/*
