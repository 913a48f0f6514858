#!/bin/bash
# Builds our programs in release, and writes their images and those of redis and etcd as archives, with no image build and
# no registry. Prints the archives' paths.
#
#   images.sh VERSION [NEXT…]   connect, logic, operator and imctl of VERSION; connect and logic again for each NEXT. Each
#                               version is a build of its own, and is what its programs report.
#
# IMCLUSTER_KIND_CARGO (default: cargo) is the command that builds, IMCLUSTER_KIND_PROFILE (default: release) the profile: `dev` compiles
# sooner and is slower to run.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -gt 0 ] || fail "which versions?"
debian_install mmdebstrap=mmdebstrap jq=jq
cargo=${IMCLUSTER_KIND_CARGO:-cargo}
[ -x "$programs/etcd" ] || "$kind_folder/programs.sh"
mkdir -p "$cache/images"
profile=${IMCLUSTER_KIND_PROFILE:-release}
first=$1
ours() { echo im-connect im-logic; [ "$1" != "$first" ] || echo im-operator imctl; }

# What the programs are made of: every file that git knows or would add.
sources() {
  cd "$root"
  git ls-files --cached --others --exclude-standard -- Cargo.toml Cargo.lock rust-toolchain.toml .cargo proto services operator manifests |
    while read -r file; do [ ! -f "$file" ] || sha256sum "$file"; done | sha256sum | cut -c1-16
}

# archive FILE NAME CONFIG LAYER…: an archive of one image.
archive() {
  local file=$1 folder; shift
  folder=$(mktemp -d -p "$scratch")
  add_image "$folder" "$@"
  close_archive "$folder" "$file.new"
  mv "$file.new" "$file"
  rm -rf "$folder"
  say "$1: $(($(stat -c %s "$file") / 1000000)) MB"
}

made_of=$(sources)-$profile
metadata=$(cd "$root" && $cargo metadata --format-version 1 --no-deps)
target=$(jq --raw-output .target_directory <<<"$metadata")
own=$(jq --raw-output '.packages[] | select(.name == "im-runtime").version' <<<"$metadata")
for version; do
  mapfile -t wanted < <(ours "$version" | tr ' ' '\n')
  for program in "${wanted[@]}"; do
    [ -f "$cache/images/$program-$version-$made_of.tar" ] && continue
    say "compiling $version"
    # The workspace's own version is what a plain build has: whoever built in release before has built this one. All packages
    # are chosen each time, and so the same features of all that they depend on.
    stamp=(IM_BUILD_VERSION="$version"); [ "$version" != "$own" ] || stamp=()
    (cd "$root" && env "${stamp[@]}" $cargo build --profile "$profile" --workspace "${wanted[@]/#/--bin=}" >&2)
    rm -f "$cache"/images/im{-*,ctl}-"$version"-*.tar
    for program in "${wanted[@]}"; do
      install -D "$target/${profile/dev/debug}/$program" "$scratch/$version/$program"
      [ "$profile" = release ] || strip --strip-debug "$scratch/$version/$program"
      tree=$scratch/$version/tree-$program
      "$root/tools/image-tree" "$scratch/$version/$program" "$tree"
      command='[]'; [ "$program" = im-operator ] && command='["run"]'
      archive "$cache/images/$program-$version-$made_of.tar" "imcluster/${program#im-}:$version" "$(jq --null-input --arg program "$program" \
        --argjson command "$command" '{Entrypoint: ["/usr/local/bin/" + $program], Cmd: $command, User: "65532:65532"}')" "$(pack "$tree")"
    done
    break
  done
  for program in "${wanted[@]}"; do echo "$cache/images/$program-$version-$made_of.tar"; done
done

# redis: of its packages only the programs and the libraries that they are linked to.
packages=$(debian_tree redis-server redis-sentinel redis-tools)
file=$cache/images/redis-$(fingerprint "$packages" "$0" "$kind_folder/common.sh").tar
if [ ! -f "$file" ]; then
  mkdir "$scratch/packages"
  tar --extract --file "$packages" --directory "$scratch/packages" ./usr ./lib
  redis=$scratch/redis unpacked=$scratch/packages
  for program in redis-server redis-sentinel redis-cli; do
    install -D -m 755 "$(readlink -f "$unpacked/usr/bin/$program")" "$redis/usr/bin/$program"
    LD_LIBRARY_PATH=$unpacked/usr/lib/x86_64-linux-gnu:$unpacked/lib/x86_64-linux-gnu ldd "$redis/usr/bin/$program" |
      sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (0x.*$/\1/p' | while read -r library; do
        install -D -m 755 "$(readlink -f "$library")" "$redis/${library#"$unpacked"}"
      done
  done
  archive "$file" "redis:7.0 redis:7.0-next" '{"Entrypoint": ["/usr/bin/redis-server"], "User": "999:999"}' "$(pack "$redis")"
fi
echo "$file"

# etcd: the program alone, as it is linked to nothing.
release=$("$programs/etcd" --version | sed -n 's/^etcd Version: //p')
file=$cache/images/etcd-$(fingerprint "$programs/etcd" "$0" "$kind_folder/common.sh").tar
if [ ! -f "$file" ]; then
  install -D -m 755 "$programs/etcd" "$scratch/etcd/usr/local/bin/etcd"
  archive "$file" "quay.io/coreos/etcd:v$release imcluster/etcd:$release" '{"Entrypoint": ["/usr/local/bin/etcd"], "User": "65532:65532"}' "$(pack "$scratch/etcd")"
fi
echo "$file"
