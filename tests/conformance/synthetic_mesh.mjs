// An orchestrator that is not there: serves the operations page from the source tree and a stream of
// made-up meshes of any size, for checks of what the page does with them.
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";

const TYPES = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".svg": "image/svg+xml",
};
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'";

/** Numbers from a seed, the same on every run. */
export function randomOf(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const NO_LOAD = {
  queue_depth: 0,
  running: 0,
  waiting: 0,
  tokens_total: 0,
  requests_total: 0,
  busy_ns_total: 0,
  kv_pages_used: 0,
  kv_pages_total: 0,
  state_slots_used: 0,
  state_slots_total: 0,
  held_bytes: 0,
  wait_ns_total: 0,
};

export function member(kind, name, more = {}) {
  return {
    kind,
    name,
    pid: 4242,
    incarnation: 1,
    endpoint: `tcp://10.0.0.1:7100/${name}`,
    admin: "10.0.0.1:9100",
    epoch: 12,
    replicas: 0,
    state: "alive",
    slow: false,
    speed: 1,
    measured_by: 1,
    unreachable_by: [],
    failure_domain: "host-a",
    heard_ms_ago: 300,
    ...more,
    load: { ...NO_LOAD, ...more.load },
  };
}

const pool = (name, replicas, wanted, busy) => ({
  pool: name,
  replicas,
  wanted,
  busy,
  busy_target: 0.7,
  wait_ms: 3.2,
  reason: "busy",
  floor: 1,
  ceiling: 96,
});

/** A mesh of MiniMax-M1's size: 80 layers of 32 experts, 64 workers, 4 shards, 2 routers. */
export class SyntheticMesh {
  constructor({
    layers = 80,
    experts = 32,
    workers = 64,
    shards = 4,
    routers = 2,
    replicas = 2,
    seed = 7,
  } = {}) {
    const random = randomOf(seed);
    Object.assign(this, {
      random,
      layers,
      experts,
      epoch: 12,
      events: [],
      watchers: new Set(),
      refuse: false,
      now: 1.7e12,
    });
    this.services = [
      member("orchestrator", "orchestrator", { heard_ms_ago: 0 }),
      ...Array.from({ length: routers }, (_, i) => member("router", `router-${i}`)),
      ...Array.from({ length: shards }, (_, i) => member("attention", `attention-${i}`)),
      ...Array.from({ length: workers }, (_, i) =>
        member("expert", `expert-${i}`, { failure_domain: `host-${i >> 3}` }),
      ),
    ];
    this.more = {};
    this.tokens = Array.from({ length: layers * experts }, () =>
      Math.round(200 + 5000 * random() ** 5 + 900 * random()),
    );
    this.holders = this.tokens.map((tokens) => {
      const chosen = new Set();
      const wanted = Math.min(workers, replicas + (tokens > 3500 ? 1 : 0));
      while (chosen.size < wanted) chosen.add(Math.floor(random() * workers));
      return [...chosen].sort((a, b) => a - b);
    });
  }

  of(kind) {
    return this.services.filter((service) => service.kind === kind);
  }
  find(name) {
    return this.services.find((service) => service.name === name);
  }

  /** One second of work by everybody. */
  work() {
    const { random } = this;
    this.now += 1000;
    for (const service of this.services) {
      const { load } = service;
      service.heard_ms_ago = Math.round(500 * random());
      if (service.kind === "expert") {
        const rows = Math.round(20_000 + 4000 * random());
        load.tokens_total += rows;
        load.requests_total += 900;
        load.busy_ns_total += Math.round((rows * (26_000 + 4000 * random())) / service.speed);
        load.wait_ns_total += Math.round(900 * 80_000 * random());
        load.queue_depth = Math.floor(4 * random());
        load.held_bytes = 48 * 2 ** 30;
        service.replicas = this.holders.filter((held) =>
          held.includes(this.of("expert").indexOf(service)),
        ).length;
        service.speed = service.slow ? 0.2 : 0.9 + 0.2 * random();
      } else if (service.kind === "attention") {
        load.running = 40 + Math.floor(20 * random());
        load.waiting = Math.floor(5 * random());
        load.tokens_total += Math.round(1500 + 400 * random());
        load.busy_ns_total += Math.round(4e8 + 2e8 * random());
        Object.assign(load, { kv_pages_used: 5200, kv_pages_total: 8192 });
      } else if (service.kind === "router") {
        load.running = 90;
        load.requests_total += 12;
      }
    }
  }

  mesh() {
    return {
      services: this.services,
      epoch: this.epoch,
      generation: 1,
      phase: "idle",
      replicas: 2,
      moves_total: 5321,
      rebalances_total: 4,
      balance: 1.04,
      pools: [
        pool("experts", this.of("expert").length, 72, 0.78),
        pool("attention", this.of("attention").length, 4, 0.52),
      ],
      change: null,
      lost: [],
      superseded: false,
      layers: this.layers,
      experts: this.experts,
      now_ms: this.now,
      ready: true,
      problem: "",
      ...this.more,
    };
  }
  load() {
    return { layers: this.layers, experts: this.experts, tokens: this.tokens };
  }
  placement() {
    return {
      epoch: this.epoch,
      layers: this.layers,
      experts: this.experts,
      workers: this.of("expert").map(({ name }) => name),
      holders: this.holders,
    };
  }

  // ---- the server

  async serve(folder) {
    this.server = http.createServer((request, response) => this.answer(request, response, folder));
    await new Promise((done) => this.server.listen(this.port ?? 0, "127.0.0.1", done));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}/`;
    return this;
  }
  async stop() {
    for (const watcher of this.watchers) watcher.destroy();
    await new Promise((done) => this.server.close(done));
  }

  async answer(request, response, folder) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    if (pathname === "/v1/events") {
      if (this.refuse)
        return response.writeHead(503, { "retry-after": "5" }).end("too many watch\n");
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      const since = request.headers["last-event-id"] ?? searchParams.get("since") ?? "1.0";
      this.watchers.add(response);
      request.on("close", () => this.watchers.delete(response));
      this.tell(response);
      for (const event of this.events)
        if (Number(event.id.split(".")[1]) > Number(since.split(".")[1]))
          this.write(response, "log", event, event.id);
      return undefined;
    }
    const file = pathname === "/" ? "index.html" : pathname.replace("/ops/", "");
    for (const place of [file, `uplot/${file}`]) {
      const bytes = await readFile(path.join(folder, place)).catch(() => null);
      if (bytes === null) continue;
      return response
        .writeHead(200, {
          "content-type": TYPES[path.extname(file)],
          "content-security-policy": POLICY,
        })
        .end(bytes);
    }
    return response.writeHead(404).end();
  }

  write(response, name, data, id = "") {
    response.write(`event: ${name}\n${id && `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`);
  }
  tell(response) {
    for (const topic of ["mesh", "load", "placement"]) this.write(response, topic, this[topic]());
  }
  /** Says everything to everybody. */
  publish() {
    for (const watcher of this.watchers) this.tell(watcher);
  }
  say(severity, kind, who, text, more = {}) {
    const id = `1.${this.events.length + 1}`;
    const event = {
      id,
      at_ms: this.now,
      severity,
      kind,
      member: who,
      text,
      count: 1,
      replaces: "",
      ...more,
    };
    this.events.push(event);
    for (const watcher of this.watchers) this.write(watcher, "log", event, id);
  }
}
