// The PrometheusRule of the Kubernetes manifests holds the groups of deploy/prometheus/rules, which
// kustomize cannot do. `--write` makes it; without, it is compared.
import {readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const page = join(root, 'deploy/k8s/components/monitoring/prometheus-rule.yaml');
const rules = join(root, 'deploy/prometheus/rules');
const HEAD = `# Written by tests/deploy/prometheus_rule.mjs --write from deploy/prometheus/rules: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fulgur
  labels:
    app.kubernetes.io/name: fulgur
spec:
  groups:
`;

let groups = '';
for (const file of readdirSync(rules).sort()) {
  const text = readFileSync(join(rules, file), 'utf8');
  const body = text.slice(text.indexOf('groups:\n') + 'groups:\n'.length);
  groups += body.replace(/^(?=.)/gm, '  ');
}
const wanted = HEAD + groups;
if (process.argv.includes('--write')) {
  writeFileSync(page, wanted);
} else if (readFileSync(page, 'utf8') !== wanted) {
  console.log(
    `prometheus-rule.yaml is not deploy/prometheus/rules: node tests/deploy/prometheus_rule.mjs --write`,
  );
  process.exit(1);
}
