# Sourced by the scripts beside it: where things are kept, how progress is said, how container images are written.
kind_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$kind_folder/../.." && pwd)
cache=${IMCLUSTER_KIND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/imcluster-kind}
programs=$cache/bin
export KUBECONFIG=${IMCLUSTER_KIND_KUBECONFIG:-$cache/kubeconfig}
export PATH=$programs:$PATH
debian=bookworm
mkdir -p "$programs"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/imcluster-kind.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }
fail() { echo "${0##*/}: $*" >&2; exit 1; }

# debian_install PROGRAM=PACKAGE…: installs the packages of the programs that are missing.
debian_install() {
  local pair missing=()
  for pair; do PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}"); done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}. Install them with your package manager"
  say "installing ${missing[*]}"
  # RUNLEVEL=1: a package must not start its service here.
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# pack FOLDER: the folder as an image layer, named by its content; the same files give the same bytes. Prints the file.
pack() {
  local file; file=$(mktemp -p "$scratch" layer.XXXXXX)
  tar --create --file "$file" --directory "$1" --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 .
  echo "$file"
}

# What no container of ours reads.
unread=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/lib/*/gconv/*' --dpkgopt='path-exclude=/usr/share/lintian/*')

# debian_tree PACKAGE…: Debian packages with what they depend on, unpacked and not configured. Prints the tar file, which is
# kept from one call to the next.
debian_tree() {
  local kept
  kept=$cache/debian-$(printf '%s\n' "$debian" "${unread[@]}" "$@" | sha256sum | cut -c1-12).tar
  if [ ! -f "$kept" ]; then
    say "Debian packages: $*"
    mmdebstrap --quiet --variant=extract --format=tar --include="$(IFS=,; echo "$*")" "${unread[@]}" \
      --customize-hook='cd "$1" && rm -rf dev/* var/cache var/lib/apt var/lib/dpkg etc/hostname etc/hosts etc/resolv.conf' \
      "$debian" "$kept.new" >&2
    mv "$kept.new" "$kept"
  fi
  echo "$kept"
}

# add_image FOLDER NAMES CONFIG LAYER…: adds an image to the archive that FOLDER is to become (the format of `docker save`).
# NAMES are separated by blanks, CONFIG is a JSON object.
add_image() {
  local folder=$1 names=$2 config=$3 layer sum layers=() sums=(); shift 3
  mkdir -p "$folder"
  for layer; do
    sum=$(sha256sum "$layer"); sum=${sum%% *}
    [ -e "$folder/$sum.tar" ] || cp --reflink=auto "$layer" "$folder/$sum.tar"
    layers+=("$sum.tar") sums+=("sha256:$sum")
  done
  jq --null-input --compact-output --argjson own "$config" \
    '{os: "linux", architecture: "amd64", config: ({Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]} + $own),
      rootfs: {type: "layers", diff_ids: $ARGS.positional}}' --args "${sums[@]}" >"$scratch/config.json"
  sum=$(sha256sum "$scratch/config.json"); sum=${sum%% *}
  mv "$scratch/config.json" "$folder/$sum.json"
  jq --null-input --compact-output --arg config "$sum.json" --arg names "$names" \
    '{Config: $config, RepoTags: ($names | split(" ")), Layers: $ARGS.positional}' --args "${layers[@]}" >>"$folder/images"
}

# close_archive FOLDER FILE: writes the archive of the images that were added.
close_archive() {
  jq --slurp --compact-output . "$1/images" >"$1/manifest.json"
  rm "$1/images"
  tar --create --file "$2" --directory "$1" .
}

# fingerprint FILE…: a short sum over contents.
fingerprint() { sha256sum "$@" | cut -d' ' -f1 | sha256sum | cut -c1-16; }
