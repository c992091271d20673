// The operations page: hears the orchestrator's stream and draws what it says, at most once a frame.
import {$, count, el, lasting, percent, plural, setText, syncList} from './dom.js';
import {EpochCard} from './epochs.js';
import {HeatMap} from './heatmap.js';
import {History} from './history.js';
import {Latency} from './latency.js';
import {EventList} from './log.js';
import {Pools} from './pools.js';
import {Stream} from './stream.js';
import {Topology} from './topology.js';

const STALE_MS = 5000;

const history = new History();
const heat = new HeatMap();
const topology = new Topology((name) => {
  heat.showWorker(name);
  drawSoon(true);
});
const pools = new Pools();
const epochs = new EpochCard();
const latency = new Latency();
const log = new EventList();

let mesh = null;
let meshAt = 0; // performance.now() of its arrival
let link = 'connecting';
let drawn = null;
let frame = 0;

function drawSoon(again = false) {
  if (again) drawn = null;
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  showLink();
  log.render();
  heat.render();
  if (!mesh) return;
  const age = performance.now() - meshAt;
  topology.update(mesh, history, age);
  epochs.update(mesh, age, log.list());
  if (drawn === mesh) return;
  drawn = mesh;
  showSummary();
  pools.update(mesh, history);
  latency.update(mesh, history);
}

function showLink() {
  const age = mesh ? performance.now() - meshAt : 0;
  const stale = mesh && age > STALE_MS;
  const state = link === 'live' && stale ? 'stale' : link;
  $('link').dataset.state = state;
  setText($('link').lastElementChild, state);
  document.body.classList.toggle('stale', Boolean(stale));
  const banners = [];
  if (stale || link === 'reconnecting')
    banners.push({
      severity: 'warning',
      text: `No news from the orchestrator${mesh ? ` for ${lasting(age)}` : ''}: what is shown may be out of date. Traffic goes on without it.`,
    });
  if (mesh?.superseded)
    banners.push({
      severity: 'error',
      text: `This orchestrator has stepped down, what is shown is what it knew then: ${mesh.problem}. Open the other one’s page.`,
    });
  else if (mesh && !mesh.ready)
    banners.push({severity: 'error', text: `The mesh does not serve: ${mesh.problem}`});
  else if (mesh?.problem) banners.push({severity: 'warning', text: mesh.problem});
  syncList(
    $('banners'),
    banners,
    ({severity, text}) => severity + text.slice(0, 20),
    ({severity}) => el('p', {class: `banner ${severity}`}),
    (banner, {text}) => setText(banner, text),
  );
}

function showSummary() {
  const of = (wanted) => mesh.services.filter(({kind}) => kind === wanted);
  const sum = (services, field) => services.reduce((total, {load}) => total + load[field], 0);
  const shards = of('attention');
  const tokens = history.traffic.values.tokens;
  const experts = mesh.pools.find(({pool}) => pool === 'experts');
  const facts = [
    [
      'state',
      mesh.superseded ? 'stepped down' : mesh.ready ? 'serving' : 'not serving',
      mesh.superseded || !mesh.ready ? 'bad' : 'good',
    ],
    ['members', plural(mesh.services.length - 1, 'member')],
    ['epoch', `${mesh.epoch}, ${mesh.phase}`],
    [
      'sequences',
      `${count(sum(shards, 'running'))} running, ${count(sum(shards, 'waiting'))} waiting`,
    ],
    ['tokens a second', count(tokens[tokens.length - 1] ?? NaN)],
    ['workers busy', percent(experts?.busy ?? NaN)],
  ];
  syncList(
    $('summary'),
    facts,
    ([name]) => name,
    ([name]) => el('div', {}, el('dt', {}, name), el('dd')),
    (item, [, value, style = '']) => {
      setText(item.lastChild, value);
      item.lastChild.className = `num ${style}`;
    },
  );
  document.title = mesh.ready && !mesh.superseded ? 'Fulgur operations' : '✕ Fulgur operations';
}

new Stream('/v1/events', {
  onTopic(name, data) {
    if (name === 'load') heat.setLoad(data);
    if (name === 'placement') heat.setPlacement(data);
    if (name === 'mesh') {
      mesh = data;
      meshAt = performance.now();
      history.add(data);
    }
    drawSoon();
  },
  onEvent(event) {
    log.add(event);
    // It ends right after it has said so: no further look at the mesh will tell.
    if (event.kind === 'stepped down' && mesh)
      mesh = {...mesh, superseded: true, problem: `${event.member} ${event.text}`};
    drawSoon();
  },
  onState(state) {
    link = state;
    drawSoon();
  },
});
setInterval(() => drawSoon(), 1000); // ages grow by themselves
