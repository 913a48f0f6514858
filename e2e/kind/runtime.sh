#!/bin/bash
# A runc for machines where root has fewer capabilities than usual. Docker requests all of them for a privileged container
# (which a kind node is), and runc refuses those that it cannot grant: this removes the missing ones from each request.
bounding=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
held=$(capsh --decode="$bounding" | sed 's/.*=//' | tr 'a-z,' 'A-Z\n' | jq --raw-input . | jq --slurp --compact-output .)

lessen() { # FILE FILTER: what FILTER selects in FILE is a process
  [ -f "$1" ] || return 0
  local less
  less=$(jq --compact-output --argjson held "$held" \
    "($2 | select(.capabilities) | .capabilities[]) |= map(select(. as \$one | \$held | index(\$one)))" "$1") && printf '%s' "$less" >"$1"
}

previous=
for argument in "$@"; do
  case $previous in
    -b | --bundle) lessen "$argument/config.json" .process ;;
    -p | --process) lessen "$argument" . ;;
  esac
  previous=$argument
done
exec /usr/sbin/runc "$@"
