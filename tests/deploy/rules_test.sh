#!/usr/bin/env bash
# Checks deploy/prometheus with promtool: syntax of rules and scrape configurations, a test for
# every alert, a runbook section in docs/operations.md for every alert. Exit 77: no promtool.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v promtool >/dev/null ||
  { echo "SKIPPED: promtool is not installed (Debian package: prometheus)"; exit 77; }

cd "$root/deploy/prometheus"
promtool check rules rules/*.rules.yml
promtool check config --syntax-only prometheus-hosts.yml
# Debian builds Prometheus without discovery in Kubernetes: that one line is left out.
checked=$(mktemp --suffix=.yml)
trap 'rm -f "$checked"' EXIT
sed '/kubernetes_sd_configs/d' prometheus-kubernetes.yml >"$checked"
promtool check config --syntax-only "$checked"
promtool test rules "$here"/rules/*.test.yml

failed=0
for alert in $(sed -n 's/^ *- alert: //p' rules/*.rules.yml); do
  grep -q "alertname: $alert\b" "$here"/rules/*.test.yml ||
    { echo "$alert has no test in tests/deploy/rules"; failed=1; }
done
for anchor in $(sed -n "s/^ *runbook: 'docs\/operations.md#\(.*\)'/\1/p" rules/*.rules.yml | sort -u); do
  grep -q "^### $anchor\$" "$root/docs/operations.md" ||
    { echo "docs/operations.md has no section $anchor"; failed=1; }
done
exit $failed
