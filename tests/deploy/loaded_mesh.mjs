// A mesh of real processes under load, scraped by a real Prometheus, for tests of what they show.
import {spawn} from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {createServer} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const {port} = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

async function until(what, seconds, ready, process) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(200)) {
    if (process.exitCode !== null)
      throw new Error(`${what} ended with exit code ${process.exitCode}`);
    if (await ready().catch(() => false)) return;
  }
  throw new Error(`${what} was not ready after ${seconds} s`);
}

const json = async (url) => {
  const response = await fetch(url);
  const body = await response.json();
  if (!response.ok) throw new Error(`${url}: ${JSON.stringify(body)}`);
  return body;
};

export class LoadedMesh {
  constructor(root, programs) {
    Object.assign(this, {
      root,
      programs,
      children: [],
      folder: mkdtempSync(join(tmpdir(), 'fulgur-watch-')),
    });
  }

  start(program, args, log) {
    const child = spawn(program, args, {
      env: {...process.env, XDG_RUNTIME_DIR: this.folder},
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: this.folder,
    });
    child.output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text) => (child.output += text));
    child.on('exit', () => writeFileSync(join(this.folder, log), child.output));
    this.children.push(child);
    return child;
  }

  async startMesh(experts, attention) {
    const port = await freePort();
    const model = join(this.root, 'models/fulgur-tiny');
    const mesh = this.start(
      join(this.programs, 'fulgur'),
      [
        'up',
        '--port',
        port,
        '--experts',
        experts,
        '--attention',
        attention,
        '--model',
        model,
        '--no-demo',
        '--quiet',
      ],
      'mesh.log',
    );
    this.url = `http://127.0.0.1:${port}`;
    await until('the mesh', 120, async () => (await fetch(`${this.url}/readyz`)).ok, mesh);
    const description = JSON.parse(
      readFileSync(join(this.folder, `fulgur-${process.getuid()}/mesh-${port}/mesh.json`), 'utf8'),
    );
    this.services = (await json(`http://${description.orchestrator_admin}/v1/mesh`)).services;
  }

  /** Prometheus with the configuration and the rules of this project, but scraping each second and
   *  with 15 s where they take 5 minutes: nobody loads a mesh for that long. */
  async startPrometheus() {
    const port = await freePort();
    const folder = join(this.folder, 'prometheus');
    const source = join(this.root, 'deploy/prometheus');
    mkdirSync(folder);
    mkdirSync(join(folder, 'rules'));
    for (const name of readdirSync(join(source, 'rules'))) {
      const rules = readFileSync(join(source, 'rules', name), 'utf8');
      writeFileSync(join(folder, 'rules', name), rules.replaceAll('[5m]', '[15s]'));
    }
    const config = readFileSync(join(source, 'prometheus-hosts.yml'), 'utf8').replace(
      /(scrape|evaluation)_interval: \d+s/g,
      '$1_interval: 1s',
    );
    writeFileSync(join(folder, 'prometheus.yml'), config);
    writeFileSync(
      join(folder, 'targets.json'),
      JSON.stringify(
        this.services.map((service) => ({
          targets: [service.admin],
          labels: {mesh: 'test', component: service.kind, member: service.name},
        })),
      ),
    );
    const prometheus = this.start(
      'prometheus',
      [
        `--config.file=${folder}/prometheus.yml`,
        `--storage.tsdb.path=${folder}/data`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      'prometheus.log',
    );
    this.prometheus = `http://127.0.0.1:${port}`;
    await until(
      'prometheus',
      60,
      async () => (await fetch(`${this.prometheus}/-/ready`)).ok,
      prometheus,
    );
  }

  async request(path, body, cut = false) {
    const abort = new AbortController();
    const response = await fetch(`${this.url}${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      signal: abort.signal,
      headers: {'content-type': 'application/json'},
    });
    if (!cut) return response.text();
    const reader = response.body.getReader();
    await reader.read();
    return abort.abort();
  }

  /** Streams, answers in one piece, bad requests and clients that leave, for so many seconds. */
  async load(seconds, clients) {
    const end = Date.now() + seconds * 1000;
    const client = async (number) => {
      for (let turn = number; Date.now() < end; ++turn) {
        const prompt = 'Once upon a time '.repeat(1 + (turn % 7));
        const body = {prompt, max_tokens: 12 + (turn % 5) * 8, temperature: 0.7, seed: turn};
        if (turn % 4 === 0) await this.request('/v1/completions', {...body, stream: true});
        if (turn % 4 === 1) await this.request('/v1/completions', body);
        if (turn % 4 === 2) {
          await this.request('/v1/chat/completions', {
            messages: [{role: 'user', content: prompt}],
            max_tokens: 16,
          });
        }
        if (turn % 12 === 3) await this.request('/v1/completions', {...body, max_tokens: -1});
        if (turn % 12 === 7)
          await this.request('/v1/completions', {...body, stream: true, max_tokens: 200}, true);
      }
    };
    await Promise.all(Array.from({length: clients}, (_, number) => client(number)));
    this.loadedUntil = end / 1000;
  }

  async metrics(service) {
    return (await fetch(`http://${service.admin}/metrics`)).text();
  }

  /** Series of an instant or a range query, as of the end of the load while all clients were at it:
   *  [{metric, values: [[time, text]…]}]. */
  async query(expr, range) {
    const now = this.loadedUntil;
    const parameters = new URLSearchParams(
      range ? {query: expr, start: now - range, end: now, step: 1} : {query: expr, time: now},
    );
    const path = range ? 'query_range' : 'query';
    const {data} = await json(`${this.prometheus}/api/v1/${path}?${parameters}`);
    return data.result.map((series) => ({
      metric: series.metric,
      values: series.values ?? [series.value],
    }));
  }

  async labelValues(metric, name) {
    const match = new URLSearchParams({'match[]': metric});
    return (await json(`${this.prometheus}/api/v1/label/${name}/values?${match}`)).data;
  }

  /** Ends what was started; the logs stay when `keep`. */
  async stop(keep) {
    for (const child of this.children) {
      if (child.exitCode !== null) continue;
      const gone = new Promise((done) => child.once('exit', done));
      child.kill('SIGTERM');
      const hard = setTimeout(() => child.kill('SIGKILL'), 30000);
      await gone;
      clearTimeout(hard);
    }
    if (keep) console.log(`logs: ${this.folder}`);
    else rmSync(this.folder, {recursive: true, force: true});
  }
}
