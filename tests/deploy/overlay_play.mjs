// Plays the cpu overlay without a cluster: every container's exact arguments and environment, as a
// process in a network namespace of its own with an address of its own, names as cluster DNS gives
// them. Members start in the wrong order, a worker comes back at another address, a shard and a
// worker leave by scale-in, all under requests of which none may fail.
//   node overlay_play.mjs FOLDER_OF_PROGRAMS        (root, ip, kubectl)
import {spawn, spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync, appendFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

if (!process.env.FULGUR_LONG) {
  console.log('skipped: FULGUR_LONG=1 plays the overlay, which takes minutes');
  process.exit(77);
}

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const require = createRequire(join(process.env.FULGUR_NODE_FOLDER, 'package.json'));
const {parseAllDocuments} = require('yaml');
const [programs] = process.argv.slice(2);
const NAMESPACE = 'fulgur';
const tag = `fg${process.pid % 10000}`;
const bridge = `${tag}br`;
const subnet = `10.${200 + (process.pid % 50)}.${Math.floor(process.pid / 50) % 250}`;
const logs = mkdtempSync(join(tmpdir(), 'fulgur-play-'));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function skip(why) {
  console.log(`SKIPPED: ${why}`);
  process.exit(77);
}

function ip(...args) {
  const result = spawnSync('ip', args, {encoding: 'utf8'});
  if (result.status !== 0) throw new Error(`ip ${args.join(' ')}: ${result.stderr}`);
}

function manifests() {
  const result = spawnSync('kubectl', ['kustomize', join(root, 'deploy/k8s/overlays/cpu')]);
  if (result.error) skip('kubectl is not installed');
  if (result.status !== 0) skip(`kubectl kustomize: ${result.stderr}`);
  return parseAllDocuments(String(result.stdout)).map((document) => document.toJS());
}

const objects = manifests();
const find = (kind, name) => objects.find((o) => o.kind === kind && o.metadata.name === name);

/** A pod: one container as a process in a namespace with one address. */
class Pod {
  static count = 0;
  static all = new Map();

  constructor(workload, name) {
    Object.assign(this, {workload, name, address: `${subnet}.${++Pod.count + 1}`});
    this.netns = `${tag}n${Pod.count}`;
    this.component = workload.spec.template.metadata.labels['app.kubernetes.io/component'];
    Pod.all.get(name)?.forget();
    Pod.all.set(name, this);
    this.connect();
  }

  connect() {
    const link = `${tag}v${Pod.count}`;
    ip('netns', 'add', this.netns);
    mkdirSync(`/etc/netns/${this.netns}`, {recursive: true});
    writeFileSync(`/etc/netns/${this.netns}/hosts`, '127.0.0.1 localhost\n');
    ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.netns);
    ip('link', 'set', link, 'master', bridge, 'up');
    ip('-n', this.netns, 'addr', 'add', `${this.address}/24`, 'dev', 'eth0');
    ip('-n', this.netns, 'link', 'set', 'eth0', 'up');
    ip('-n', this.netns, 'link', 'set', 'lo', 'up');
  }

  forget() {
    spawnSync('ip', ['netns', 'del', this.netns]);
    rmSync(`/etc/netns/${this.netns}`, {recursive: true, force: true});
    if (Pod.all.get(this.name) === this) Pod.all.delete(this.name);
  }

  /** Name in the cluster's DNS: of the pod in a StatefulSet, of the Service in a Deployment. */
  host() {
    const {kind, spec} = this.workload;
    return kind === 'StatefulSet'
      ? `${this.name}.${spec.serviceName}.${NAMESPACE}.svc`
      : `fulgur-${this.component}.${NAMESPACE}.svc`;
  }

  environment() {
    const container = this.workload.spec.template.spec.containers[0];
    const values = {...find('ConfigMap', container.envFrom[0].configMapRef.name).data};
    const fields = {
      'metadata.name': this.name,
      'metadata.namespace': NAMESPACE,
      'spec.nodeName': `node-${Pod.count % 2}`,
    };
    for (const {name, valueFrom} of container.env) {
      values[name] = valueFrom.fieldRef
        ? fields[valueFrom.fieldRef.fieldPath]
        : container.resources.limits.cpu;
    }
    values.FULGUR_MODEL = values.FULGUR_MODEL.replace('/opt/fulgur', root);
    return values;
  }

  start() {
    const values = this.environment();
    const [service, ...args] = this.workload.spec.template.spec.containers[0].args.map((text) =>
      text.replace(/\$\((\w+)\)/g, (_, name) => values[name]),
    );
    const command = ['netns', 'exec', this.netns, join(programs, `fulgur-${service}`), ...args];
    this.process = spawn('ip', command, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {PATH: process.env.PATH},
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (text) => appendFileSync(join(logs, `${this.name}.log`), text));
    }
    this.gone = new Promise((done) =>
      this.process.once('exit', (code, signal) => done(code ?? signal)),
    );
    return this;
  }

  async ready() {
    const response = await fetch(`http://${this.address}:9090/readyz`, {
      signal: AbortSignal.timeout(2000),
    });
    return response.ok;
  }

  /** SIGTERM, as Kubernetes ends a pod; throws when its grace is over or it does not exit 0. */
  async end() {
    const grace = this.workload.spec.template.spec.terminationGracePeriodSeconds;
    const begun = Date.now();
    this.process.kill('SIGTERM');
    const code = await Promise.race([
      this.gone,
      pause(grace * 1000).then(() => 'its grace is over'),
    ]);
    if (code !== 0) throw new Error(`${this.name} under SIGTERM: ${code}`);
    console.log(`${this.name} left in ${((Date.now() - begun) / 1000).toFixed(1)} s of ${grace} s`);
    this.forget();
  }
}

/** What cluster DNS does: every pod's hosts file names every pod that is there. */
function resolveNames() {
  const lines = [
    '127.0.0.1 localhost',
    ...[...Pod.all.values()].map((pod) => `${pod.address} ${pod.host()}`),
  ];
  for (const pod of Pod.all.values())
    writeFileSync(`/etc/netns/${pod.netns}/hosts`, `${lines.join('\n')}\n`);
}

async function until(what, seconds, test) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(250)) {
    if (await test().catch(() => false)) return;
  }
  throw new Error(`${what}: not after ${seconds} s`);
}

class Clients {
  constructor(pod) {
    Object.assign(this, {
      url: `http://${pod.address}:8000/v1/completions`,
      running: true,
      done: 0,
      failures: [],
    });
    this.finished = Promise.all([0, 1, 2].map((number) => this.loop(number)));
  }

  async loop(number) {
    for (let turn = number; this.running; turn += 3) {
      const body = {prompt: 'Once upon a time', max_tokens: 48, temperature: 0, stream: true};
      try {
        const response = await fetch(this.url, {
          method: 'POST',
          body: JSON.stringify(body),
          headers: {'content-type': 'application/json'},
        });
        const text = await response.text();
        if (!response.ok || !text.trimEnd().endsWith('[DONE]') || text.includes('"error"')) {
          this.failures.push(`${response.status} ${text.slice(-300)}`);
        }
      } catch (error) {
        this.failures.push(String(error));
      }
      ++this.done;
    }
  }

  async stop() {
    this.running = false;
    await this.finished;
    console.log(`${this.done} streams, ${this.failures.length} failed`);
    if (this.failures.length > 0) throw new Error(this.failures[0]);
  }
}

async function play() {
  const set = (component) => find('StatefulSet', `fulgur-${component}`);
  const deployment = (component) => find('Deployment', `fulgur-${component}`);
  const pods = (workload) =>
    Array.from(
      {length: workload.spec.replicas},
      (_, at) => new Pod(workload, `${workload.metadata.name}-${at}`),
    );
  const router = new Pod(deployment('router'), 'fulgur-router-0');
  const shards = pods(set('attention'));
  const workers = pods(set('expert'));
  const orchestrator = new Pod(deployment('orchestrator'), 'fulgur-orchestrator-0');
  resolveNames();

  for (const pod of [router, ...shards, ...workers]) pod.start();
  await pause(3000);
  for (const pod of [router, ...shards, ...workers]) {
    if (pod.process.exitCode !== null)
      throw new Error(`${pod.name} does not wait for the orchestrator`);
    if (await pod.ready()) throw new Error(`${pod.name} is ready without an orchestrator`);
  }
  orchestrator.start();
  for (const pod of Pod.all.values()) await until(`${pod.name} ready`, 60, () => pod.ready());
  console.log('ready, the orchestrator last');

  const clients = new Clients(router);
  await until('streams', 60, async () => clients.done >= 3);
  workers[1].process.kill('SIGKILL');
  await workers[1].gone;
  await pause(3000);
  const again = new Pod(set('expert'), workers[1].name);
  resolveNames();
  again.start();
  await until(`${again.name} at ${again.address}, before at ${workers[1].address}`, 60, () =>
    again.ready(),
  );
  console.log(`${again.name} came back at another address`);

  const third = new Pod(set('expert'), 'fulgur-expert-2');
  resolveNames();
  third.start();
  await until(`${third.name} ready`, 60, () => third.ready());
  const before = clients.done;
  await until('streams over three workers', 60, async () => clients.done >= before + 3);
  await third.end();
  await shards[1].end();
  const after = clients.done;
  await until('streams after scale-in', 60, async () => clients.done >= after + 3);
  await clients.stop();
  await router.end();
}

if (process.getuid() !== 0) skip('network namespaces need root');
if (spawnSync('ip', ['-V']).error) skip('ip is not installed (Debian package: iproute2)');
if (!existsSync(join(programs, 'fulgur-router'))) skip(`the programs are not built: ${programs}`);
const probe = spawnSync('ip', ['link', 'add', bridge, 'type', 'bridge'], {encoding: 'utf8'});
if (probe.status !== 0) skip(`no network of its own can be made here: ${probe.stderr.trim()}`);
let failure;
try {
  ip('addr', 'add', `${subnet}.1/24`, 'dev', bridge);
  ip('link', 'set', bridge, 'up');
  await play();
} catch (error) {
  failure = error;
}
for (const pod of [...Pod.all.values()]) {
  if (pod.process?.exitCode === null) {
    pod.process.kill('SIGKILL');
    await pod.gone;
  }
  pod.forget();
}
spawnSync('ip', ['link', 'del', bridge]);
if (failure) {
  console.log(`logs: ${logs}`);
  throw failure;
}
rmSync(logs, {recursive: true, force: true});
