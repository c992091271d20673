// Who is there: routers, shards and workers in the order a token passes them, one tile each.
import {$, byName, bytes, count, el, lasting, percent, plural, setText, syncList} from './dom.js';
import {setMeter} from './charts.js';

const GROUPS = [
  {kind: 'router', title: 'Routers'},
  {kind: 'attention', title: 'Attention shards'},
  {kind: 'expert', title: 'Expert workers'},
];
const LOST_SHOWN_MS = 300_000;
const DENSE_FROM = 24; // tiles of a group
const MARK = {alive: '●', draining: '◐', suspect: '▲', lost: '✕', slow: '▲', 'cut off': '▲'};

/** The word that says most about a member, and the class of its colour. */
export function stateOf(service) {
  if (service.state !== 'alive') return service.state;
  if (service.unreachable_by?.length) return 'cut off';
  return service.slow ? 'slow' : 'alive';
}

function details(service, member) {
  const {load} = service;
  if (service.kind === 'expert')
    return [
      plural(service.replicas, 'replica'),
      `${count(load.queue_depth)} queued`,
      `${count(member?.tokens ?? NaN)} rows/s`,
      bytes(load.held_bytes),
    ];
  if (service.kind === 'attention')
    return [
      `${count(load.running)} running`,
      `${count(load.waiting)} waiting`,
      `${count(member?.tokens ?? NaN)} tokens/s`,
      load.kv_pages_total ? `KV ${percent(load.kv_pages_used / load.kv_pages_total)}` : null,
    ];
  return [`${count(load.running)} running`, plural(load.requests_total, 'request')];
}

const heard = (service, age) => lasting((service.heard_ms_ago ?? 0) + age);

export class Topology {
  /** `onPick(name or null)` hears which worker's replicas are to be shown. */
  constructor(onPick) {
    this.picked = null;
    this.onPick = onPick;
    this.lists = {};
    GROUPS.forEach(({kind, title}, at) => {
      if (at > 0) $('flow').append(el('span', {class: 'arrow', 'aria-hidden': 'true'}));
      const list = el('ul', {class: 'tiles'});
      const total = el('span', {class: 'num soft'});
      this.lists[kind] = {list, total};
      $('flow').append(el('div', {class: `group ${kind}`}, el('h3', {}, title, ' ', total), list));
    });
  }

  make(service) {
    const parts = {
      mark: el('span', {class: 'mark', 'aria-hidden': 'true'}),
      name: el('b'),
      state: el('span', {class: 'state'}),
      meter: el('span', {class: 'meter', 'aria-hidden': 'true'}, el('i')),
      busy: el('span', {class: 'num busy'}),
      more: el('span', {class: 'more'}),
      foot: el('span', {class: 'foot'}),
    };
    const body = el(
      service.kind === 'expert' ? 'button' : 'div',
      {class: 'tile'},
      el('span', {class: 'title'}, parts.mark, parts.name, parts.state),
      el('span', {class: 'metered'}, parts.meter, parts.busy),
      parts.more,
      parts.foot,
    );
    if (service.kind === 'expert') body.addEventListener('click', () => this.pick(service.name));
    const item = el('li', {}, body);
    item.parts = {...parts, body};
    return item;
  }

  pick(name) {
    this.picked = this.picked === name ? null : name;
    this.onPick(this.picked);
  }

  fill(item, service, history, age) {
    const {parts} = item;
    const member = history.members.get(service.name);
    const state = stateOf(service);
    item.dataset.name = service.name;
    item.dataset.state = state;
    setText(parts.mark, MARK[state] ?? '●');
    setText(parts.name, service.name);
    setText(parts.state, state);
    const lost = state === 'lost';
    const cut = service.unreachable_by ?? [];
    const words = lost
      ? [`heard last ${heard(service, age)} ago`]
      : [
          ...details(service, member),
          cut.length ? `unreachable by ${cut.join(', ')}` : null,
        ].filter(Boolean);
    const foot = lost
      ? `process ${service.pid}`
      : `epoch ${service.epoch} · heard ${heard(service, age)} ago`;
    setText(parts.more, words.join(' · '));
    setText(parts.foot, foot);
    setText(parts.busy, lost || service.kind === 'router' ? '' : percent(member?.busy ?? NaN));
    parts.meter.hidden = lost || service.kind === 'router';
    setMeter(parts.meter, member?.busy);
    const busy = parts.busy.textContent && `busy ${parts.busy.textContent}`;
    parts.body.title = [
      service.name,
      state,
      busy,
      ...words,
      foot,
      service.endpoint,
      service.failure_domain && `on ${service.failure_domain}`,
    ]
      .filter(Boolean)
      .join('\n');
    if (service.kind === 'expert')
      parts.body.setAttribute('aria-pressed', String(this.picked === service.name));
  }

  update(mesh, history, age) {
    const lost = mesh.lost
      .filter((member) => member.heard_ms_ago + age < LOST_SHOWN_MS)
      .map((member) => ({...member, state: 'lost'}));
    for (const {kind} of GROUPS) {
      const {list, total} = this.lists[kind];
      const members = mesh.services.filter((one) => one.kind === kind);
      const shown = [...members, ...lost.filter((one) => one.kind === kind)].sort(byName);
      setText(total, String(members.length));
      list.classList.toggle('dense', shown.length >= DENSE_FROM);
      list.classList.toggle('empty', shown.length === 0);
      syncList(
        list,
        shown,
        ({name}) => name,
        (one) => this.make(one),
        (item, one) => this.fill(item, one, history, age),
      );
    }
    if (this.picked && !mesh.services.some(({name}) => name === this.picked))
      this.pick(this.picked);
    setText($('topology-note'), this.note(mesh));
  }

  /** All about the picked worker: tiles of a large mesh are too small for it. */
  note(mesh) {
    const item = this.lists.expert.list.known.get(this.picked);
    if (item) return item.parts.body.title.replaceAll('\n', ' · ');
    const self = mesh.services.find(({kind}) => kind === 'orchestrator');
    const seen = plural(mesh.services.length - 1, 'member');
    return self ? `${self.name} (process ${self.pid}) sees ${seen}` : '';
  }
}
