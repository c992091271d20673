// What every rendered overlay must keep, beyond the types: violations(objects) lists what it does
// not, as "Kind name: what".
import {readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';

const WORKLOADS = ['Deployment', 'StatefulSet'];
const label = (object) => `${object.kind} ${object.metadata.name}`;
const selects = (selector, labels) =>
  Object.entries(selector ?? {}).every(([key, value]) => labels?.[key] === value);
const seconds = (config, text) =>
  Number(text.replace(/\$\((\w+)\)/g, (_, name) => config[name] ?? NaN));

/** Flags the sources of a service declare. */
function flagsOf(root, component) {
  const flags = new Set();
  const sources = (folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith('.cpp'))
      .map((name) => join(folder, name));
  const shared =
    component === 'orchestrator' ? ['common/service/curve_flag.cpp'] : sources('common/service');
  for (const file of [...sources(`services/${component}`), ...shared]) {
    const text = readFileSync(join(root, file), 'utf8');
    for (const [, flag] of text.matchAll(/add_(?:option|flag)\w*(?:<[^>]*>)?\(\s*"(--[a-z-]+)"/g))
      flags.add(flag);
  }
  return flags;
}

function checkContainer(container, config, root) {
  const bad = [];
  const {image, args, resources, securityContext, env = []} = container;
  if (!/:[^/]+$/.test(image) || image.endsWith(':latest'))
    bad.push(`image ${image} has no fixed tag`);
  for (const kind of ['requests', 'limits']) {
    for (const what of ['cpu', 'memory'])
      if (!resources?.[kind]?.[what]) bad.push(`no ${what} ${kind}`);
  }
  for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
    const port = container[probe]?.httpGet?.port;
    if (!container.ports.some((p) => p.name === port))
      bad.push(`${probe} asks no port of the container`);
  }
  if (container.readinessProbe?.httpGet?.path !== '/readyz') bad.push('readiness is not /readyz');
  if (container.livenessProbe?.httpGet?.path !== '/healthz') bad.push('liveness is not /healthz');
  if (container.terminationMessagePolicy !== 'FallbackToLogsOnError')
    bad.push('why it ended is not in its status');
  if (securityContext?.readOnlyRootFilesystem !== true) bad.push('root file system is writable');
  if (securityContext?.allowPrivilegeEscalation !== false) bad.push('may escalate privileges');
  if (!securityContext?.capabilities?.drop?.includes('ALL')) bad.push('keeps capabilities');
  const backend = args.find((text) => text.startsWith('--backend='))?.split('=')[1];
  const computesOnGpu = backend?.replace(/\$\((\w+)\)/g, (_, name) => config[name]) === 'cuda';
  if (computesOnGpu !== Boolean(resources?.limits?.['nvidia.com/gpu']))
    bad.push(computesOnGpu ? 'computes on a GPU it does not have' : 'has a GPU it does not use');
  const known = new Set([...env.map((variable) => variable.name), ...Object.keys(config)]);
  const flags = flagsOf(root, args[0]);
  for (const argument of args.slice(1)) {
    const flag = argument.split('=')[0];
    if (!flags.has(flag)) bad.push(`fulgur-${args[0]} has no flag ${flag}`);
    for (const [, name] of argument.matchAll(/\$\((\w+)\)/g)) {
      if (!known.has(name)) bad.push(`nothing sets $(${name}) of ${flag}`);
    }
  }
  for (const endpoint of args.flatMap((text) => /^--listen=tcp:.*:(\d+)$/.exec(text)?.[1] ?? [])) {
    if (!container.ports.some((p) => p.containerPort === Number(endpoint)))
      bad.push(`port ${endpoint} is not declared`);
  }
  return bad;
}

function checkGrace(pod, container, config) {
  const flag = container.args.find((text) => text.startsWith('--drain-timeout='));
  const drain = flag ? seconds(config, flag.split('=')[1]) : 0;
  const pause = Number(container.lifecycle?.preStop?.exec?.command?.[1] ?? 0);
  const needed = drain + pause + 15;
  return pod.terminationGracePeriodSeconds >= needed
    ? []
    : [
        `grace of ${pod.terminationGracePeriodSeconds} s is less than drain ${drain} + preStop ${pause} + 15 s`,
      ];
}

/** Keys come as files of a Secret, for the pod's group alone; never in arguments or variables. */
function checkSecrets(pod, container) {
  const bad = [];
  const secrets = pod.volumes.filter((volume) => volume.secret);
  const mounts = container.volumeMounts.filter((m) => secrets.some((s) => s.name === m.name));
  for (const {name, secret} of secrets) {
    if (((secret.defaultMode ?? 0o644) & 0o337) !== 0) bad.push(`secret ${name} is open to others`);
    if (!mounts.some((mount) => mount.name === name)) bad.push(`secret ${name} is mounted nowhere`);
  }
  for (const mount of mounts) if (!mount.readOnly) bad.push(`secret ${mount.name} is writable`);
  if (secrets.length > 0 && pod.securityContext.fsGroup !== pod.securityContext.runAsGroup)
    bad.push('its group cannot read its secrets');
  for (const argument of container.args) {
    const [flag, path] = argument.split('=');
    if (flag === '--api-key') bad.push('a key is in the arguments');
    if (/^--.*-key-file$/.test(flag) && !mounts.some((m) => path.startsWith(`${m.mountPath}/`)))
      bad.push(`${flag} is not in a secret`);
  }
  if (container.env.some((variable) => variable.valueFrom?.secretKeyRef))
    bad.push('a secret is in a variable');
  return bad;
}

/** Settings of components, which an overlay may leave out. */
const OPTIONAL_SETTINGS = ['FULGUR_OTLP_ENDPOINT', 'FULGUR_TRACE_SAMPLE'];

/** Settings that nothing reads, and those the entry point would refuse. */
function checkSettings(objects, root) {
  const config = objects.find((o) => o.kind === 'ConfigMap' && o.data?.FULGUR_REPLICAS)?.data ?? {};
  const containers = objects
    .filter((object) => WORKLOADS.includes(object.kind))
    .flatMap((object) => object.spec.template.spec.containers);
  const text = JSON.stringify(containers.map((container) => container.args));
  const entry = readFileSync(join(root, 'deploy/container/entrypoint.sh'), 'utf8');
  const known = /settings='([^']*)'/.exec(entry)[1].trim().split(/\s+/);
  return [
    ...Object.keys(config)
      .filter((name) => !text.includes(`$(${name})`))
      .map((name) => `fulgur-config: nothing reads ${name}`),
    ...[...new Set([...Object.keys(config), ...known])]
      .filter((name) => name in config || !OPTIONAL_SETTINGS.includes(name))
      .filter((name) => !known.includes(name) || !(name in config))
      .map((name) => `fulgur-config and entrypoint.sh differ in ${name}`),
  ];
}

/** Links are encrypted for all or for nobody. */
function checkCurve(objects) {
  const workloads = objects.filter((object) => WORKLOADS.includes(object.kind));
  const keyed = workloads.filter((object) =>
    object.spec.template.spec.containers[0].args.some((a) => a.startsWith('--curve-key-file=')),
  );
  return keyed.length === 0 || keyed.length === workloads.length
    ? []
    : [`only ${keyed.map(label).join(', ')} have a key for links`];
}

function checkWorkload(object, objects, root) {
  const {template, selector} = object.spec;
  const pod = template.spec;
  const bad = [];
  if (!selects(selector.matchLabels, template.metadata.labels))
    bad.push('selector does not match its own pods');
  if (pod.securityContext?.runAsNonRoot !== true || !(pod.securityContext.runAsUser > 0))
    bad.push('may run as root');
  if (pod.securityContext?.seccompProfile?.type !== 'RuntimeDefault')
    bad.push('no seccomp profile');
  if (pod.automountServiceAccountToken !== false) bad.push('has a token of the API server');
  if (pod.hostNetwork || pod.hostPID || pod.hostIPC) bad.push('shares a namespace with its host');
  if (pod.volumes.some((volume) => volume.hostPath)) bad.push('mounts a path of its host');
  const cover = (kind, key) =>
    objects.filter((other) => other.kind === kind && selects(key(other), template.metadata.labels));
  if (cover('PodDisruptionBudget', (b) => b.spec.selector.matchLabels).length !== 1)
    bad.push('needs one disruption budget');
  if (cover('NetworkPolicy', (p) => p.spec.podSelector.matchLabels).length < 2)
    bad.push('has no network policy of its own');
  for (const container of pod.containers) {
    const reference = container.envFrom?.[0]?.configMapRef?.name;
    const config = objects.find(
      (other) => other.kind === 'ConfigMap' && other.metadata.name === reference,
    )?.data;
    if (!config) return [...bad, `config map ${reference} does not exist`];
    bad.push(...checkContainer(container, config, root), ...checkGrace(pod, container, config));
    bad.push(...checkSecrets(pod, container));
    const mounted = new Set(pod.volumes.map((volume) => volume.name));
    for (const mount of container.volumeMounts)
      if (!mounted.has(mount.name)) bad.push(`no volume ${mount.name}`);
  }
  return bad;
}

function checkService(object, objects) {
  const pods = objects.filter(
    (other) =>
      WORKLOADS.includes(other.kind) &&
      selects(object.spec.selector, other.spec.template.metadata.labels),
  );
  if (pods.length !== 1) return [`selects ${pods.length} workloads`];
  const ports = pods[0].spec.template.spec.containers.flatMap((container) => container.ports);
  return object.spec.ports
    .filter((port) => !ports.some((p) => p.name === port.targetPort))
    .map((port) => `port ${port.name} leads to no port of ${label(pods[0])}`);
}

function checkStatefulSet(object, objects) {
  const service = objects.find(
    (other) => other.kind === 'Service' && other.metadata.name === object.spec.serviceName,
  );
  if (service?.spec.clusterIP !== 'None')
    return [`service ${object.spec.serviceName} is not headless`];
  if (!service.spec.publishNotReadyAddresses)
    return ['members must be found before they are ready'];
  const advertise = object.spec.template.spec.containers[0].args.find((text) =>
    text.startsWith('--advertise='),
  );
  const [host, port] = (advertise ?? '').replace('--advertise=tcp://', '').split(':');
  const bad = [];
  if (host !== `$(POD_NAME).${object.spec.serviceName}.$(POD_NAMESPACE).svc`)
    bad.push(`advertises ${host}`);
  if (!service.spec.ports.some((p) => String(p.port) === port))
    bad.push(`advertises port ${port} that ${label(service)} lacks`);
  return bad;
}

function checkAutoscaler(object, objects) {
  const {
    scaleTargetRef: to,
    minReplicaCount,
    maxReplicaCount,
    minReplicas,
    maxReplicas,
  } = object.spec;
  const target = objects.find((other) => other.kind === to.kind && other.metadata.name === to.name);
  if (!target) return [`scales ${to.kind} ${to.name}, which does not exist`];
  const pool = to.name === 'fulgur-expert' ? 'EXPERTS' : 'ATTENTION';
  const config =
    objects.find((other) => other.kind === 'ConfigMap' && other.data?.FULGUR_REPLICAS)?.data ?? {};
  const bad = [];
  if (target.spec.replicas !== undefined) bad.push(`applying resets the replicas of ${to.name}`);
  const bounds = [minReplicaCount ?? minReplicas, maxReplicaCount ?? maxReplicas].join(' to ');
  const signal = [config[`FULGUR_MIN_${pool}`], config[`FULGUR_MAX_${pool}`]].join(' to ');
  if (bounds !== signal) bad.push(`scales ${bounds}, the orchestrator asks for ${signal}`);
  if (!JSON.stringify(object.spec).includes('fulgur_pool_wanted_replicas'))
    bad.push('does not follow the wanted size');
  return bad;
}

function checkPeers(object, objects) {
  const workloads = objects.filter((other) => WORKLOADS.includes(other.kind));
  const rules = [...(object.spec.ingress ?? []), ...(object.spec.egress ?? [])];
  const peers = rules
    .flatMap((rule) => [...(rule.from ?? []), ...(rule.to ?? [])])
    .map((peer) => peer.podSelector?.matchLabels);
  return peers
    .filter(
      (labels) =>
        labels && !workloads.some((w) => selects(labels, w.spec.template.metadata.labels)),
    )
    .map((labels) => `names a peer that does not exist: ${JSON.stringify(labels)}`);
}

export function violations(objects, root) {
  const found = [...checkSettings(objects, root), ...checkCurve(objects)];
  const say = (object, problems) =>
    problems.forEach((problem) => found.push(`${label(object)}: ${problem}`));
  const names = objects.map((object) => `${object.apiVersion} ${label(object)}`);
  names
    .filter((name, at) => names.indexOf(name) !== at)
    .forEach((name) => found.push(`${name}: twice`));
  for (const object of objects) {
    if (object.kind !== 'Namespace' && object.metadata.namespace !== 'fulgur')
      say(object, ['is outside the namespace']);
    if (WORKLOADS.includes(object.kind)) say(object, checkWorkload(object, objects, root));
    if (object.kind === 'Service') say(object, checkService(object, objects));
    if (object.kind === 'StatefulSet') say(object, checkStatefulSet(object, objects));
    if (object.kind === 'NetworkPolicy') say(object, checkPeers(object, objects));
    if (['ScaledObject', 'HorizontalPodAutoscaler'].includes(object.kind))
      say(object, checkAutoscaler(object, objects));
    if (object.kind === 'Secret') say(object, ['secrets do not belong into manifests']);
  }
  return found;
}
