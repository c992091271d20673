// From one release to the next while it serves, by the steps of docs/operations.md: orchestrator,
// workers, shards, routers, one at a time. Streams run all the while; none may fail or differ from
// the ones before the first step, and who is replaced must not count as lost (routers of a release
// that ends without a word do, so between two releases that is only said).
//   node upgrade.mjs FOLDER_OF_PROGRAMS
//   FULGUR_OLD_PROGRAMS=FOLDER: the release to start from; without it both are the same, and what
//   is tried are the steps. The other way round it is the way back.
import {spawn, spawnSync} from 'node:child_process';
import {closeSync, existsSync, mkdtempSync, openSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

import {Clients} from './clients.mjs';
import {freePort} from './loaded_mesh.mjs';
import {until} from './overlay_pods.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const kNew = resolve(process.argv[2]);
const kOld = resolve(process.env.FULGUR_OLD_PROGRAMS ?? kNew);
const kSeconds = 120; // patience for each thing on a machine that does much else
const kClients = 4;
const kBegun = Date.now();

function say(text) {
  console.log(`${((Date.now() - kBegun) / 1000).toFixed(1)} s: ${text}`);
}

/** A process of the mesh under its name, of one release and then of the other. */
class Member {
  constructor(folder, service, name, flags) {
    Object.assign(this, {folder, service, name, flags});
  }

  async start(programs) {
    this.port ??= await freePort();
    const log = openSync(join(this.folder, `${this.name}.log`), 'a');
    this.process = spawn(
      join(programs, `fulgur-${this.service}`),
      [
        `--name=${this.name}`,
        `--admin=127.0.0.1:${this.port}`,
        `--model=${join(root, 'models/fulgur-tiny')}`,
        ...this.flags,
      ],
      {stdio: ['ignore', log, log]},
    );
    closeSync(log);
    this.gone = new Promise((done) =>
      this.process.once('exit', (code, signal) => done(code ?? signal)),
    );
  }

  async admin(path) {
    const url = `http://127.0.0.1:${this.port}${path}`;
    return fetch(url, {signal: AbortSignal.timeout(5000)});
  }

  async ready() {
    await until(`${this.name} is ready`, kSeconds, async () => {
      return (await this.admin('/readyz')).ok;
    });
  }

  /** Sum of the series that begin with `series`. */
  async metric(series) {
    const text = await (await this.admin('/metrics')).text();
    const lines = text.split('\n').filter((line) => line.startsWith(series));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  async version() {
    const text = await (await this.admin('/metrics')).text();
    return /^fulgur_build_info\{.*version="([^"]*)"/m.exec(text)?.[1];
  }

  async end() {
    this.process.kill('SIGTERM');
    const code = await this.gone;
    if (code !== 0) throw new Error(`${this.name} under SIGTERM: ${code}`);
  }
}

class Mesh {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'fulgur-upgrade-'));
    const socket = (name) => `ipc://${this.folder}/${name}`;
    const member = (service, name, flags = []) =>
      new Member(this.folder, service, name, [
        `--orchestrator=${socket('orchestrator')}`,
        ...flags,
      ]);
    const two = (service, flags) =>
      [0, 1].map((at) => member(service, `${service}-${at}`, flags(`${service}-${at}`)));
    const listen = (name) => [`--listen=${socket(name)}`];
    this.orchestrator = new Member(this.folder, 'orchestrator', 'orchestrator', [
      ...listen('orchestrator'),
      '--expect-experts=2',
      '--expect-attention=2',
    ]);
    this.workers = two('expert', listen);
    this.shards = two('attention', listen);
    this.routers = two('router', () => []);
    this.members = [this.orchestrator, ...this.workers, ...this.shards, ...this.routers];
    this.turn = 0;
  }

  async start(programs) {
    for (const router of this.routers) {
      router.api = await freePort();
      router.flags.push('--host=127.0.0.1', `--port=${router.api}`);
    }
    for (const member of this.members) await member.start(programs);
    for (const member of this.members) await member.ready();
  }

  /** What a load balancer does: the routers in turn, without the one that is to be replaced. */
  balance() {
    const open = this.routers.filter((router) => !router.out);
    return `http://127.0.0.1:${open[this.turn++ % open.length].api}`;
  }

  async close(keepLogs) {
    for (const {process, gone} of this.members) {
      if (process?.exitCode !== null || process.signalCode !== null) continue;
      process.kill('SIGKILL');
      await gone;
    }
    if (keepLogs) console.log(`logs: ${this.folder}`);
    else rmSync(this.folder, {recursive: true, force: true});
  }
}

/** Half of them greedy, half sampled: one that goes on elsewhere must draw the same numbers. */
const kRequests = ['Once upon a time', 'The', 'One day, a little', 'Tom and his'].map(
  (prompt, at) => ({prompt, max_tokens: 120, temperature: at % 2, seed: at, ignore_eos: true}),
);

async function replace(member, clients) {
  const begun = Date.now();
  member.out = true;
  await member.end();
  const ended = Date.now();
  await member.start(kNew);
  await member.ready();
  member.out = false;
  const seconds = (milliseconds) => (milliseconds / 1000).toFixed(2);
  say(
    `${member.name}: ${await member.version()}, left in ${seconds(ended - begun)} s, ` +
      `ready ${seconds(Date.now() - ended)} s after its start`,
  );
  await clients.more(kClients, kSeconds);
}

async function upgrade(mesh) {
  await mesh.start(kOld);
  say(`${mesh.members.length} processes of ${await mesh.orchestrator.version()} are ready`);
  const clients = new Clients(() => mesh.balance(), kRequests);
  clients.load(kClients, 0);
  await clients.more(2 * kRequests.length, kSeconds); // each has its answer before anything changes
  for (const member of mesh.members) {
    if (mesh.shards.includes(member)) {
      await until(`${member.name} has sequences`, kSeconds, async () => {
        return (await member.metric('fulgur_requests_running')) > 0;
      });
    }
    await replace(member, clients);
  }
  say(await clients.stop());
  const {version} = /(?<version>\S+)\s*$/.exec(
    spawnSync(join(kNew, 'fulgur'), ['--version'], {encoding: 'utf8'}).stdout,
  ).groups;
  for (const member of mesh.members) {
    if ((await member.version()) !== version) throw new Error(`${member.name} is not ${version}`);
  }
  const lost = await mesh.orchestrator.metric('fulgur_members_lost_total');
  const left = await mesh.orchestrator.metric('fulgur_members_left_total');
  say(`${left} members left, ${lost} were lost`);
  if (lost > 0 && kOld === kNew) throw new Error('who is replaced must not count as lost');
}

for (const programs of [kOld, kNew]) {
  if (existsSync(join(programs, 'fulgur-router'))) continue;
  console.log(`SKIPPED: the programs are not built: ${programs}`);
  process.exit(77);
}
const mesh = new Mesh();
let failure;
try {
  await upgrade(mesh);
} catch (error) {
  failure = error;
}
await mesh.close(failure !== undefined);
if (failure) throw failure;
