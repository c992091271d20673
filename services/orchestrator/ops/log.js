// The event log: newest first, filtered by severity and words. An entry that repeats an older one
// takes its place.
import {$, el, plural, setText, syncList} from './dom.js';

const KEPT = 500;
const MARK = {info: '●', warning: '▲', error: '✕'};

export const timeOf = (event) => new Date(event.at_ms).toLocaleTimeString('en', {hour12: false});

export class EventList {
  constructor() {
    this.events = new Map(); // by id, in order
    this.changed = true;
    for (const input of $('log-filter').querySelectorAll('input'))
      input.addEventListener('input', () => this.show());
  }

  add(event) {
    this.events.delete(event.replaces);
    this.events.set(event.id, event);
    if (this.events.size > KEPT) this.events.delete(this.events.keys().next().value);
    this.changed = true;
  }

  list() {
    return [...this.events.values()];
  }

  render() {
    if (!this.changed) return;
    this.changed = false;
    this.show();
  }

  show() {
    const severities = new Set(
      [...$('log-filter').querySelectorAll('input:checked')].map(({value}) => value),
    );
    const words = $('log-search').value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.list()
      .reverse()
      .filter((event) => {
        const text = `${event.kind} ${event.member} ${event.text}`.toLowerCase();
        return severities.has(event.severity) && words.every((word) => text.includes(word));
      });
    setText(
      $('log-note'),
      shown.length === this.events.size
        ? plural(shown.length, 'event')
        : `${shown.length} of ${plural(this.events.size, 'event')}`,
    );
    syncList(
      $('log'),
      shown,
      ({id}) => id,
      (event) => this.make(event),
      () => {},
    );
  }

  make(event) {
    const at = new Date(event.at_ms);
    return el(
      'li',
      {'data-severity': event.severity, 'data-kind': event.kind},
      el(
        'time',
        {class: 'num', datetime: at.toISOString(), title: at.toLocaleString()},
        timeOf(event),
      ),
      el(
        'span',
        {class: 'mark', title: event.severity},
        MARK[event.severity] ?? '●',
        el('span', {class: 'hidden'}, event.severity),
      ),
      el('b', {}, event.kind),
      el('span', {class: 'names'}, event.member),
      el(
        'span',
        {class: 'text'},
        event.text,
        event.count > 1 ? el('span', {class: 'tag'}, `${event.count} times`) : null,
      ),
    );
  }
}
