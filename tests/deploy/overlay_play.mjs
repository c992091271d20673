// Plays the cpu overlay, with encrypted links, without a cluster (overlay_pods.mjs). Members start
// before the orchestrator; an autoscaler that follows the wanted size takes the expert workers from
// one to many and back while load rises and falls; a worker crashes and comes back at another address;
// a shard and a router leave. All under streams of which none may fail or differ from the others.
// FULGUR_LONG=1: up to 4 workers and 2 rounds; else up to 2 workers.
//   node overlay_play.mjs FOLDER_OF_PROGRAMS        (root, ip, kubectl)
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join, relative, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

import {Clients} from './clients.mjs';
import {Cluster, pause, until} from './overlay_pods.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const folder = process.env.FULGUR_NODE_FOLDER;
const {parseAllDocuments} = createRequire(join(folder, 'package.json'))('yaml');
const [programs] = process.argv.slice(2);
const kLong = Boolean(process.env.FULGUR_LONG);
const kWorkersMost = kLong ? 4 : 2;
const kRounds = kLong ? 2 : 1;
const kBegun = Date.now();
const kSeconds = 120; // patience for each thing on a machine that does much else

/** With the seconds since the start. */
function say(text) {
  console.log(`${((Date.now() - kBegun) / 1000).toFixed(1)} s: ${text}`);
}

function skip(why) {
  console.log(`SKIPPED: ${why}`);
  process.exit(77);
}

/** The overlay an operator would write for this size: what differs are settings. */
function manifests() {
  const path = join(folder, 'play');
  mkdirSync(path, {recursive: true});
  const below = (part) => relative(path, join(root, 'deploy/k8s', part));
  const settings = [
    'FULGUR_MIN_EXPERTS=1',
    `FULGUR_MAX_EXPERTS=${kWorkersMost}`,
    // Pods share the cores of one machine, which may do much else: a tenth of what a worker computes
    // under load on an idle one, several times what the light load below needs.
    'FULGUR_BUSY_TARGET=0.03',
    'FULGUR_SHRINK_SECONDS=3',
    'FULGUR_LOG_LEVEL=info',
  ];
  writeFileSync(
    join(path, 'kustomization.yaml'),
    [
      'apiVersion: kustomize.config.k8s.io/v1beta1',
      'kind: Kustomization',
      'namespace: fulgur',
      `resources: [${below('overlays/cpu')}]`,
      `components: [${below('components/curve')}]`,
      'configMapGenerator:',
      `  - {name: fulgur-config, behavior: merge, literals: [${settings.join(', ')}]}`,
      '',
    ].join('\n'),
  );
  const result = spawnSync('kubectl', ['kustomize', path]);
  if (result.error) skip('no kubectl (deploy_kubectl says why)');
  if (result.status !== 0) skip(`kubectl kustomize: ${result.stderr}`);
  return parseAllDocuments(String(result.stdout)).map((document) => document.toJS());
}

function keys() {
  const path = join(folder, 'play-keys', String(process.pid));
  mkdirSync(dirname(path), {recursive: true});
  const made = spawnSync(join(programs, 'fulgur'), ['keygen', '--out', path], {encoding: 'utf8'});
  if (made.status !== 0) throw new Error(made.stderr);
  return path;
}

/** What KEDA and the HPA do with a StatefulSet: as many pods as wanted, from ordinal 0 up; one at a
 *  time down, the highest first. */
class Autoscaler {
  constructor(cluster, set, orchestrator, first) {
    Object.assign(this, {cluster, set, orchestrator, pods: first});
    Object.assign(this, {running: true, held: false, sizes: [], ended: 0, begun: Date.now()});
    this.finished = this.loop();
    this.finished.catch((error) => (this.failure = error));
  }

  async loop() {
    for (; this.running; await pause(500)) {
      const wanted = await this.orchestrator
        .metric('fulgur_pool_wanted_replicas{pool="experts"}')
        .catch(() => this.pods.length);
      if (wanted === this.pods.length || this.held) continue;
      if (wanted > this.pods.length) {
        const name = `fulgur-expert-${this.pods.length}`;
        this.pods.push(this.cluster.pod(this.set, name).start());
      } else {
        const last = this.pods.pop();
        say(`${last.name} left in ${(await last.end()).toFixed(2)} s`);
        ++this.ended;
      }
      const seconds = Math.round((Date.now() - this.begun) / 1000);
      this.sizes.push(`${this.pods.length} at ${seconds} s`);
    }
  }

  async reaches(size) {
    await until(`${size} workers that serve`, kSeconds, async () => {
      if (this.failure) return true;
      if (this.pods.length !== size) return false;
      return (await Promise.all(this.pods.map((pod) => pod.ready()))).every(Boolean);
    });
    if (this.failure) throw this.failure;
  }

  async stop() {
    this.running = false;
    await this.finished;
    say(`workers: ${this.sizes.join(', ')}`);
  }
}

/** A crash, and the pod's return under its name at another address. */
async function comeBackElsewhere(cluster, autoscaler, clients) {
  autoscaler.held = true; // a StatefulSet gives a pod back whatever its size is to be
  const at = autoscaler.pods.length - 1;
  const dead = autoscaler.pods[at];
  await dead.crash();
  await clients.more(2, kSeconds);
  const again = cluster.pod(dead.workload, dead.name).start();
  autoscaler.pods[at] = again;
  await until(`${again.name} at ${again.address}, before at ${dead.address}`, kSeconds, () =>
    again.ready(),
  );
  autoscaler.held = false;
  say(`${again.name} came back at ${again.address}, before at ${dead.address}`);
}

async function play(cluster) {
  const set = (component) => cluster.find('StatefulSet', `fulgur-${component}`);
  const deployed = (component) =>
    cluster.pod(cluster.find('Deployment', `fulgur-${component}`), `fulgur-${component}-0`);
  const router = deployed('router').start();
  const shards = [0, 1].map((at) => cluster.pod(set('attention'), `fulgur-attention-${at}`).start());
  const worker = cluster.pod(set('expert'), 'fulgur-expert-0').start();
  const early = [router, ...shards, worker];
  for (const pod of early) await until(`${pod.name} runs`, kSeconds, () => pod.admin('/healthz'));
  for (const pod of early)
    if (await pod.ready()) throw new Error(`${pod.name} is ready without an orchestrator`);
  const orchestrator = deployed('orchestrator').start();
  for (const pod of cluster.pods.values()) await until(`${pod.name} ready`, kSeconds, () => pod.ready());
  say('ready, the orchestrator last');

  const clients = new Clients(
    () => `http://${router.address}:8000`,
    [{prompt: 'Once upon a time', max_tokens: 48, temperature: 0}],
  );
  const autoscaler = new Autoscaler(cluster, set('expert'), orchestrator, [worker]);
  for (let round = 0; round < kRounds; ++round) {
    clients.load(8, 0);
    await autoscaler.reaches(kWorkersMost);
    await clients.more(8, kSeconds);
    await comeBackElsewhere(cluster, autoscaler, clients);
    clients.load(1, 50);
    await autoscaler.reaches(1);
  }
  await autoscaler.stop();
  clients.load(3, 0);
  await clients.more(3, kSeconds);
  say(`${shards[1].name} left in ${(await shards[1].end()).toFixed(2)} s, streams running`);
  await clients.more(3, kSeconds);
  say(await clients.stop());
  const goodbyes = autoscaler.ended + 1;
  await until(`${goodbyes} members that drained`, kSeconds, async () => {
    return (await orchestrator.metric('fulgur_members_left_total')) === goodbyes;
  });
  say(`${router.name} left in ${(await router.end()).toFixed(2)} s`);
}

if (process.getuid() !== 0) skip('network namespaces need root');
if (!existsSync(join(programs, 'fulgur-router'))) skip(`the programs are not built: ${programs}`);
const cluster = new Cluster(manifests(), root, resolve(programs), [
  ['/run/secrets/fulgur-curve', keys()],
]);
const hindrance = cluster.open();
if (hindrance) skip(hindrance);
let failure;
try {
  await play(cluster);
} catch (error) {
  failure = error;
}
await cluster.close(failure !== undefined);
if (failure) throw failure;
