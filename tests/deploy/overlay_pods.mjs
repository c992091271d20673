// Pods without a cluster: containers of rendered manifests as processes, each in a network namespace
// with an address of its own, names as cluster DNS gives them. Arguments and environment are exactly
// the manifest's, started through the image's entry point; only the paths of the image and of mounted
// Secrets are replaced by folders of this machine.
import {spawn, spawnSync} from 'node:child_process';
import {appendFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const NAMESPACE = 'fulgur';
export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(what, seconds, test) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(100)) {
    if (await test().catch(() => false)) return;
  }
  throw new Error(`${what}: not after ${seconds} s`);
}

function ip(...args) {
  const result = spawnSync('ip', args, {encoding: 'utf8'});
  if (result.status !== 0) throw new Error(`ip ${args.join(' ')}: ${result.stderr}`);
}

export class Cluster {
  /** `objects`: rendered manifests; `paths`: [path in the image, folder here] in order. */
  constructor(objects, root, programs, paths) {
    this.objects = objects;
    this.pods = new Map();
    this.count = 0;
    this.tag = `fg${process.pid % 10000}`;
    this.subnet = `10.${200 + (process.pid % 50)}.${Math.floor(process.pid / 50) % 250}`;
    this.logs = mkdtempSync(join(tmpdir(), 'fulgur-play-'));
    this.paths = [...paths, ['/opt/fulgur/models', join(root, 'models')]];
    this.bin = join(this.logs, 'bin');
    mkdirSync(this.bin);
    symlinkSync(join(root, 'deploy/container/entrypoint.sh'), join(this.bin, 'entrypoint'));
    for (const service of ['router', 'attention', 'expert', 'orchestrator'])
      symlinkSync(join(programs, `fulgur-${service}`), join(this.bin, `fulgur-${service}`));
  }

  /** Why there can be no network here; undefined when there is one now. */
  open() {
    const bridge = `${this.tag}br`;
    const made = spawnSync('ip', ['link', 'add', bridge, 'type', 'bridge'], {encoding: 'utf8'});
    if (made.error) return 'ip is not installed (Debian package: iproute2)';
    if (made.status !== 0) return `no network of its own can be made here: ${made.stderr.trim()}`;
    this.bridge = bridge;
    ip('addr', 'add', `${this.subnet}.1/24`, 'dev', bridge);
    ip('link', 'set', bridge, 'up');
    return undefined;
  }

  find(kind, name) {
    return this.objects.find((o) => o.kind === kind && o.metadata.name === name);
  }

  /** A new pod of a workload, at a new address, in the place of an older one of its name. */
  pod(workload, name) {
    this.pods.get(name)?.forget();
    const pod = new Pod(this, workload, name, ++this.count);
    this.pods.set(name, pod);
    this.resolveNames();
    return pod;
  }

  /** What cluster DNS does: every pod's hosts file names every pod that is there. */
  resolveNames() {
    const lines = [
      '127.0.0.1 localhost',
      ...[...this.pods.values()].map((pod) => `${pod.address} ${pod.host()}`),
    ];
    for (const pod of this.pods.values())
      writeFileSync(`/etc/netns/${pod.netns}/hosts`, `${lines.join('\n')}\n`);
  }

  async close(keepLogs) {
    for (const pod of [...this.pods.values()]) {
      if (pod.process && pod.process.exitCode === null && pod.process.signalCode === null) {
        pod.process.kill('SIGKILL');
        await pod.gone;
      }
      pod.forget();
    }
    if (this.bridge) spawnSync('ip', ['link', 'del', this.bridge]);
    if (keepLogs) console.log(`logs: ${this.logs}`);
    else rmSync(this.logs, {recursive: true, force: true});
  }
}

class Pod {
  constructor(cluster, workload, name, number) {
    const address = `${cluster.subnet}.${number + 1}`;
    Object.assign(this, {cluster, workload, name, number, address});
    this.netns = `${cluster.tag}n${number}`;
    this.component = workload.spec.template.metadata.labels['app.kubernetes.io/component'];
    this.container = workload.spec.template.spec.containers[0];
    this.connect();
  }

  connect() {
    const link = `${this.cluster.tag}v${this.number}`;
    ip('netns', 'add', this.netns);
    mkdirSync(`/etc/netns/${this.netns}`, {recursive: true});
    writeFileSync(`/etc/netns/${this.netns}/hosts`, '127.0.0.1 localhost\n');
    ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.netns);
    ip('link', 'set', link, 'master', this.cluster.bridge, 'up');
    ip('-n', this.netns, 'addr', 'add', `${this.address}/24`, 'dev', 'eth0');
    ip('-n', this.netns, 'link', 'set', 'eth0', 'up');
    ip('-n', this.netns, 'link', 'set', 'lo', 'up');
  }

  forget() {
    spawnSync('ip', ['netns', 'del', this.netns]);
    rmSync(`/etc/netns/${this.netns}`, {recursive: true, force: true});
    if (this.cluster.pods.get(this.name) === this) this.cluster.pods.delete(this.name);
  }

  /** Name in the cluster's DNS: of the pod in a StatefulSet, of the Service in a Deployment. */
  host() {
    const {kind, spec} = this.workload;
    return kind === 'StatefulSet'
      ? `${this.name}.${spec.serviceName}.${NAMESPACE}.svc`
      : `fulgur-${this.component}.${NAMESPACE}.svc`;
  }

  environment() {
    const {envFrom, env, resources} = this.container;
    const values = {...this.cluster.find('ConfigMap', envFrom[0].configMapRef.name).data};
    const fields = {
      'metadata.name': this.name,
      'metadata.namespace': NAMESPACE,
      'spec.nodeName': `node-${this.number % 2}`,
    };
    for (const {name, valueFrom} of env)
      values[name] = valueFrom.fieldRef ? fields[valueFrom.fieldRef.fieldPath] : resources.limits.cpu;
    return values;
  }

  start() {
    const values = this.environment();
    const here = (text) =>
      this.cluster.paths.reduce((path, [from, to]) => path.replace(from, to), text);
    const args = this.container.args.map((text) =>
      here(text.replace(/\$\((\w+)\)/g, (whole, name) => values[name] ?? whole)),
    );
    const entry = join(this.cluster.bin, 'entrypoint');
    this.process = spawn('ip', ['netns', 'exec', this.netns, entry, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {PATH: process.env.PATH, ...values},
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (text) => appendFileSync(join(this.cluster.logs, `${this.name}.log`), text));
    }
    this.gone = new Promise((done) =>
      this.process.once('exit', (code, signal) => done(code ?? signal)),
    );
    return this;
  }

  async admin(path) {
    return fetch(`http://${this.address}:9090${path}`, {signal: AbortSignal.timeout(5000)});
  }

  async ready() {
    return (await this.admin('/readyz')).ok;
  }

  /** Value of the series that begins with `series`. */
  async metric(series) {
    const text = await (await this.admin('/metrics')).text();
    const line = text.split('\n').find((one) => one.startsWith(series));
    if (line === undefined) throw new Error(`${this.name} shows no ${series}`);
    return Number(line.slice(line.lastIndexOf(' ')));
  }

  async crash() {
    this.process.kill('SIGKILL');
    await this.gone;
  }

  /** SIGTERM, as Kubernetes ends a pod. Seconds it took; throws when its grace was over or it did
   *  not exit 0. */
  async end() {
    const grace = this.workload.spec.template.spec.terminationGracePeriodSeconds;
    const begun = Date.now();
    this.process.kill('SIGTERM');
    let timer; // cleared below: node would not end before it
    const late = new Promise((done) => (timer = setTimeout(done, grace * 1000, 'its grace is over')));
    const code = await Promise.race([this.gone, late]);
    clearTimeout(timer);
    if (code !== 0) throw new Error(`${this.name} under SIGTERM: ${code}`);
    this.forget();
    this.cluster.resolveNames();
    return (Date.now() - begun) / 1000;
  }
}
