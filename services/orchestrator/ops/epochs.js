// Placement epochs: what is committed, what is changing, what changed last.
import {$, count, el, lasting, plural, setText, syncList, times} from './dom.js';
import {timeOf} from './log.js';

const PHASES = ['settling', 'idle', 'preparing', 'switching'];
const KINDS = new Set([
  'preparing',
  'committed',
  'retired',
  'rebalancing',
  'placement',
  'load failed',
  'not switched',
]);
const SHOWN = 5;
const NAMES = 6;  // of those waited for

const WORDS = {
  settling: 'Members register; the first placement waits for those expected.',
  idle: 'Every shard routes by the committed epoch.',
};

function sentence(phase, {epoch, moves, asked, waits_for, for_ms}, age, done) {
  const first = waits_for.slice(0, NAMES).join(', ');
  const rest = waits_for.length > NAMES ? ` and ${waits_for.length - NAMES} more` : '';
  const waits = `after ${lasting(for_ms + age)}. Waits for ${first}${rest}.`;
  return phase === 'preparing'
    ? `Epoch ${epoch}: workers load ${plural(moves, 'replica')}; ${done} of ${asked} are ready ${waits}`
    : `Epoch ${epoch} is committed; ${done} of ${plural(asked, 'shard')} switched ${waits}`;
}

export class EpochCard {
  constructor() {
    this.steps = el(
      'ol',
      {class: 'steps', 'aria-label': 'Phases'},
      ...PHASES.map((phase) => el('li', {'data-phase': phase}, phase)),
    );
    this.words = el('p', {class: 'change'});
    this.progress = el('progress', {max: 1, 'aria-label': 'Part of the change that is done'});
    this.facts = el('dl', {class: 'pairs'});
    this.heading = el('h3', {}, 'Latest changes');
    this.recent = el('ol', {class: 'recent', 'aria-label': 'Latest changes'});
    $('epoch-body').append(
      this.steps,
      this.words,
      this.progress,
      this.facts,
      this.heading,
      this.recent,
    );
  }

  update(mesh, age, events) {
    for (const step of this.steps.children)
      if (step.dataset.phase === mesh.phase) step.setAttribute('aria-current', 'step');
      else step.removeAttribute('aria-current');
    const {change} = mesh;
    const done = change ? change.asked - change.waits_for.length : 0;
    setText(this.words, change ? sentence(mesh.phase, change, age, done) : (WORDS[mesh.phase] ?? ''));
    this.progress.hidden = !change;
    if (change) {
      this.progress.max = Math.max(1, change.asked);
      this.progress.value = done;
    }
    const pairs = [
      ['committed epoch', String(mesh.epoch)],
      ['replicas of every expert', `at least ${mesh.replicas}`],
      ['slowest worker over the mean', mesh.balance > 0 ? times(mesh.balance) : 'not known yet'],
      ['replicas moved', count(mesh.moves_total)],
      ['changes for balance', count(mesh.rebalances_total)],
    ];
    syncList(
      this.facts,
      pairs,
      ([name]) => name,
      ([name]) => el('div', {}, el('dt', {}, name), el('dd', {class: 'num'})),
      (pair, [, value]) => setText(pair.lastChild, value),
    );
    const recent = events
      .filter(({kind}) => KINDS.has(kind))
      .slice(-SHOWN)
      .reverse();
    this.heading.hidden = recent.length === 0;
    syncList(
      this.recent,
      recent,
      ({id}) => id,
      (event) =>
        el(
          'li',
          {'data-severity': event.severity},
          el('time', {class: 'num'}, timeOf(event)),
          ' ',
          el('b', {}, event.kind),
          ' ',
          el('span', {}, [event.member, event.text].filter(Boolean).join(' ')),
        ),
      () => {},
    );
  }
}
