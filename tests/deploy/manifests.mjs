// The Kubernetes manifests: rendered by kustomize, checked against the types of their kinds (unknown
// fields are errors), and against the rules of this project in policies.mjs.
import {spawnSync} from 'node:child_process';
import {mkdirSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join, relative, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

import {violations} from './policies.mjs';
import {literal, typecheck} from './typecheck.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const folder = process.env.FULGUR_NODE_FOLDER;
const {parseAllDocuments} = createRequire(join(folder, 'package.json'))('yaml');

const TYPES = {
  v1: 'kubernetes-models/v1',
  'apps/v1': 'kubernetes-models/apps/v1',
  'policy/v1': 'kubernetes-models/policy/v1',
  'autoscaling/v2': 'kubernetes-models/autoscaling/v2',
  'networking.k8s.io/v1': 'kubernetes-models/networking.k8s.io/v1',
  'monitoring.coreos.com/v1': '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1',
  'keda.sh/v1alpha1': '@kubernetes-models/keda/keda.sh/v1alpha1',
};

function skip(why) {
  console.log(`SKIPPED: ${why}`);
  process.exit(77);
}

function render(path) {
  const result = spawnSync('kubectl', ['kustomize', path], {encoding: 'utf8', maxBuffer: 1 << 26});
  if (result.error) skip('no kubectl (deploy_kubectl says why)');
  if (
    result.status !== 0 &&
    /invalid Kustomization.*components|unknown field "components"/.test(result.stderr)
  ) {
    skip('this kubectl is too old for kustomize components (1.21 is needed)');
  }
  if (result.status !== 0) throw new Error(`kubectl kustomize ${path}: ${result.stderr}`);
  return parseAllDocuments(result.stdout, {uniqueKeys: true}).map((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    return document.toJS();
  });
}

/** Components that an overlay does not use, on top of it. */
function withComponents(names, overlay = 'cpu') {
  const path = join(folder, `render-${overlay}-${names.join('-')}`);
  rmSync(path, {recursive: true, force: true});
  mkdirSync(path, {recursive: true});
  const below = (part) => relative(path, join(root, 'deploy/k8s', part));
  writeFileSync(
    join(path, 'kustomization.yaml'),
    [
      'apiVersion: kustomize.config.k8s.io/v1beta1',
      'kind: Kustomization',
      'namespace: fulgur',
      'resources:',
      `  - ${below(`overlays/${overlay}`)}`,
      'components:',
      ...names.map((name) => `  - ${below(`components/${name}`)}`),
      '',
    ].join('\n'),
  );
  return render(path);
}

function wrongTypes(name, objects) {
  const lines = [];
  const imported = new Map();
  objects.forEach((object, at) => {
    const from = TYPES[object.apiVersion];
    if (!from) throw new Error(`${name}: no types for ${object.apiVersion} ${object.kind}`);
    const alias = `${object.kind}_${object.apiVersion.replace(/\W/g, '_')}`;
    imported.set(alias, `import type {I${object.kind} as ${alias}} from '${from}';`);
    lines.push(literal(`${object.kind} ${object.metadata.name}`, `value${at}`, alias, object));
  });
  return typecheck(`manifests-${name}`, [...imported.values(), ...lines]);
}

/** The check itself must see what it is there for. */
function selfTest(objects) {
  const set = objects.find((object) => object.kind === 'StatefulSet');
  const unknown = structuredClone(set);
  unknown.spec.template.spec.containers[0].imagePullPolicies = 'Always';
  const mistyped = structuredClone(set);
  mistyped.spec.template.spec.terminationGracePeriodSeconds = '30';
  const seen = wrongTypes('self-test', [unknown, mistyped]);
  if (seen.length !== 2 || !seen[0].includes('imagePullPolicies')) {
    throw new Error(`mistakes were not seen: ${seen.join('; ')}`);
  }
}

/** Each mistake in a copy of good objects must be named. */
function policyTest(objects) {
  const mistakes = [
    ['open to others', (pod) => (pod.volumes.at(-1).secret.defaultMode = 0o644)],
    ['is writable', (pod) => delete pod.containers[0].volumeMounts.at(-1).readOnly],
    ['cannot read its secrets', (pod) => delete pod.securityContext.fsGroup],
    ['is not in a secret', (pod) => pod.containers[0].args.push('--curve-key-file=/tmp/key')],
    ['in the arguments', (pod) => pod.containers[0].args.push('--api-key=abc')],
    ['has no flag --curve', (pod) => pod.containers[0].args.push('--curve=1')],
    ['why it ended', (pod) => delete pod.containers[0].terminationMessagePolicy],
    ['nothing sets $(GONE)', (pod) => pod.containers[0].args.push('--name=$(GONE)')],
    ['a GPU it does not use', (pod) => (pod.containers[0].resources.limits['nvidia.com/gpu'] = '1')],
    ['a GPU it does not have', (pod) => pod.containers[0].args.push('--backend=cuda')],
    ['have a key for links', (pod) => (pod.containers[0].args = pod.containers[0].args.slice(0, 5))],
  ];
  for (const [what, spoil] of mistakes) {
    const copy = structuredClone(objects);
    spoil(copy.find((object) => object.kind === 'Deployment').spec.template.spec);
    const seen = violations(copy, root);
    if (!seen.some((problem) => problem.includes(what)))
      throw new Error(`policies do not see "${what}": ${seen.join('; ')}`);
  }
  const misspelt = structuredClone(objects);
  misspelt.find((o) => o.kind === 'ConfigMap' && o.data.FULGUR_MODEL).data.FULGUR_KV_TOKEN = '1';
  if (!violations(misspelt, root).some((problem) => problem.includes('nothing reads')))
    throw new Error('policies do not see a setting that nothing reads');
}

const cpu = render(join(root, 'deploy/k8s/overlays/cpu'));
const rendered = {
  cpu,
  h100: render(join(root, 'deploy/k8s/overlays/h100')),
  'cpu-hpa': withComponents(['hpa']),
  'cpu-tracing': withComponents(['tracing']),
  'cpu-keda-monitoring': withComponents(['keda', 'monitoring']),
  'cpu-api-key-curve': withComponents(['api-key', 'curve']),
  'h100-curve': withComponents(['curve'], 'h100'),
};
selfTest(cpu);
policyTest(rendered['cpu-api-key-curve']);
let failed = 0;
for (const [name, objects] of Object.entries(rendered)) {
  const problems = [...wrongTypes(name, objects), ...violations(objects, root)];
  for (const problem of problems) console.log(`${name}: ${problem}`);
  failed += problems.length;
  console.log(`${name}: ${objects.length} objects, ${problems.length} problems`);
}
process.exit(failed > 0 ? 1 : 0);
