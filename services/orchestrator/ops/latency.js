// How long each worker takes, as shards measure it (relative to the median worker) and as it
// measures itself (computing a row, waiting in its queue).
import {$, brief, byName, colour, el, setText, syncList, times} from './dom.js';
import {sparkline} from './charts.js';
import {stateOf} from './topology.js';

const last = (values) => values[values.length - 1] ?? NaN;

export class Latency {
  constructor() {
    this.order = 'name';
    $('latency-order').addEventListener('change', (event) => {
      this.order = event.target.value;
      this.again?.();
    });
  }

  make() {
    const parts = {
      name: el('b'),
      tag: el('span', {class: 'tag warn'}),
      factor: el('span', {class: 'num factor'}),
      line: el('canvas', {class: 'spark', role: 'img'}),
      own: el('span', {class: 'more num'}),
    };
    const item = el(
      'li',
      {},
      el('span', {class: 'title'}, parts.name, parts.tag, parts.factor),
      parts.line,
      parts.own,
    );
    item.parts = parts;
    return item;
  }

  fill(item, worker, history) {
    const {parts} = item;
    const {paces = [], row, wait} = history.members.get(worker.name) ?? {};
    const state = stateOf(worker);
    const now = last(paces);
    item.dataset.name = worker.name;
    item.dataset.state = state;
    setText(parts.name, worker.name);
    setText(parts.tag, state);
    parts.tag.hidden = state === 'alive';
    setText(parts.factor, Number.isNaN(now) ? 'not measured' : times(now));
    const known = paces.filter((pace) => !Number.isNaN(pace));
    parts.line.setAttribute(
      'aria-label',
      known.length === 0
        ? 'not measured yet'
        : `between ${times(Math.min(...known))} and ${times(Math.max(...known))} of the median`,
    );
    sparkline(parts.line, paces, {stroke: colour(state === 'alive' ? '--line-1' : '--warn')});
    setText(
      parts.own,
      row === undefined ? 'no work yet' : `computes ${brief(row)} a row, waits ${brief(wait)}`,
    );
  }

  update(mesh, history) {
    this.again = () => this.update(mesh, history);
    const workers = mesh.services.filter(({kind}) => kind === 'expert').sort(byName);
    if (this.order === 'slow') {
      const pace = ({name}) => last(history.members.get(name)?.paces ?? []) || 0;
      workers.sort((a, b) => pace(b) - pace(a) || byName(a, b));
    }
    setText($('latency-note'), 'against the median worker, as shards measure it');
    syncList(
      $('paces'),
      workers,
      ({name}) => name,
      () => this.make(),
      (item, one) => this.fill(item, one, history),
    );
  }
}
