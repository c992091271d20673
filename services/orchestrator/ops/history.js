// What the page remembers: rates between two snapshots, and ten minutes of them. Counters of a
// process start again with it; times are those of heartbeats, as the orchestrator's clock has them.
export const KEPT = 600; // snapshots, about one a second

const rate = (now, before, time) => (now >= before && time > 0 ? (now - before) / time : NaN);

/** Equally long columns of numbers over time, the oldest forgotten. */
export class Columns {
  constructor(names) {
    this.times = [];
    this.values = Object.fromEntries(names.map((name) => [name, []]));
  }
  push(seconds, row) {
    this.times.push(seconds);
    for (const [name, column] of Object.entries(this.values)) column.push(row[name] ?? null);
    if (this.times.length <= KEPT) return;
    this.times.shift();
    for (const column of Object.values(this.values)) column.shift();
  }
}

export class History {
  constructor() {
    this.members = new Map(); // by name: {incarnation, at, load, busy, rows, row, wait, paces}
    this.pools = new Map();
    this.traffic = new Columns(['tokens', 'running', 'waiting']);
  }

  add(mesh) {
    const seconds = mesh.now_ms / 1000;
    const present = new Set();
    for (const service of mesh.services) {
      present.add(service.name);
      this.addMember(service, mesh.now_ms);
    }
    for (const name of this.members.keys()) if (!present.has(name)) this.members.delete(name);
    for (const pool of mesh.pools) {
      if (!this.pools.has(pool.pool))
        this.pools.set(pool.pool, new Columns(['replicas', 'wanted', 'busy', 'target']));
      this.pools.get(pool.pool).push(seconds, {...pool, target: pool.busy_target});
    }
    const shards = mesh.services.filter(({kind}) => kind === 'attention');
    const sum = (of) => shards.reduce((total, shard) => total + (of(shard) || 0), 0);
    this.traffic.push(seconds, {
      tokens: sum(({name}) => this.members.get(name).tokens),
      running: sum(({load}) => load.running),
      waiting: sum(({load}) => load.waiting),
    });
  }

  addMember(service, now) {
    const at = now - (service.heard_ms_ago ?? 0);
    let member = this.members.get(service.name);
    if (!member || member.incarnation !== service.incarnation) {
      member = {incarnation: service.incarnation, at, load: service.load, paces: []};
      this.members.set(service.name, member);
    }
    const {load: before} = member;
    const time = at - member.at;
    if (time > 0) {
      const load = service.load;
      member.busy = Math.min(1, rate(load.busy_ns_total, before.busy_ns_total, time * 1e6));
      member.tokens = rate(load.tokens_total, before.tokens_total, time / 1000);
      const rows = load.tokens_total - before.tokens_total;
      const requests = load.requests_total - before.requests_total;
      if (rows > 0) member.row = rate(load.busy_ns_total, before.busy_ns_total, rows);
      if (requests > 0) member.wait = rate(load.wait_ns_total, before.wait_ns_total, requests);
      Object.assign(member, {at, load});
    }
    if (service.kind !== 'expert') return;
    member.paces.push(service.measured_by > 0 ? 1 / Math.max(service.speed, 1e-3) : NaN);
    if (member.paces.length > KEPT) member.paces.shift();
  }
}
