#!/bin/sh
# Becomes the service named by the first argument; the rest are its flags.
case ${1:-} in
  router | attention | expert | orchestrator)
    service=$1
    shift
    exec "/opt/fulgur/bin/fulgur-$service" "$@"
    ;;
  --help)
    echo "usage: router|attention|expert|orchestrator [FLAGS]   (FLAGS: SERVICE --help)"
    ;;
  *)
    echo "fulgur: '${1:-}' is no service: router, attention, expert or orchestrator" >&2
    exit 2
    ;;
esac
