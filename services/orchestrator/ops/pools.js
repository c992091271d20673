// The two pools that scale, and what clients get out of them: a sentence of numbers and a chart each.
import {$, count, el, percent, setText} from './dom.js';
import {TimeChart} from './charts.js';

const whole = (plot, splits) => splits.map((at) => (Number.isInteger(at) ? count(at) : ''));
const fromZero = (least) => (plot, low, high) => [
  0,
  Math.max(least, Math.ceil((high ?? 0) * 1.15)),
];

const POOLS = [
  {pool: 'attention', title: 'Attention pool', what: 'shards'},
  {pool: 'experts', title: 'Expert pool', what: 'workers'},
];

function card(title) {
  const note = el('p', {class: 'soft'});
  const facts = el('p', {class: 'facts'});
  const chart = el('div', {class: 'chart'});
  $('pool-cards').append(
    el(
      'section',
      {class: 'card'},
      el('div', {class: 'head'}, el('h2', {}, title), note),
      facts,
      chart,
    ),
  );
  return {note, facts, chart};
}

function sizeChart(host, label) {
  return new TimeChart(host, {
    label,
    scales: {
      size: {side: 3, values: whole, size: 34, range: fromZero(2)},
      part: {side: 1, values: (_, splits) => splits.map(percent), size: 46, range: [0, 1]},
    },
    series: [
      {
        label: 'serve',
        column: 'replicas',
        scale: 'size',
        colour: '--line-1',
        step: true,
        show: String,
      },
      {
        label: 'wanted',
        column: 'wanted',
        scale: 'size',
        colour: '--line-3',
        dash: [7, 4],
        step: true,
        show: String,
      },
      {
        label: 'busy',
        column: 'busy',
        scale: 'part',
        colour: '--line-2',
        fill: '--fill-2',
        show: percent,
      },
      {
        label: 'target',
        column: 'target',
        scale: 'part',
        colour: '--line-2',
        dash: [2, 5],
        show: percent,
      },
    ],
  });
}

export class Pools {
  constructor() {
    this.cards = POOLS.map(({pool, title, what}) => {
      const parts = card(title);
      parts.facts.dataset.pool = pool;
      return {
        pool,
        what,
        ...parts,
        plot: sizeChart(parts.chart, `${title}: size and busy part over time`),
      };
    });
    const traffic = card('Traffic');
    this.traffic = {
      ...traffic,
      plot: new TimeChart(traffic.chart, {
        label: 'Traffic: tokens a second and sequences over time',
        scales: {
          rate: {side: 3, values: whole, size: 44, range: fromZero(10)},
          size: {side: 1, values: whole, size: 34, range: fromZero(2)},
        },
        series: [
          {
            label: 'tokens/s',
            column: 'tokens',
            scale: 'rate',
            colour: '--line-2',
            fill: '--fill-2',
            show: count,
          },
          {
            label: 'running',
            column: 'running',
            scale: 'size',
            colour: '--line-1',
            step: true,
            show: count,
          },
          {
            label: 'waiting',
            column: 'waiting',
            scale: 'size',
            colour: '--line-3',
            dash: [7, 4],
            step: true,
            show: count,
          },
        ],
      }),
    };
  }

  update(mesh, history) {
    for (const {pool, what, note, facts, plot} of this.cards) {
      const now = mesh.pools.find((one) => one.pool === pool);
      if (!now) continue;
      const change = now.wanted - now.replicas;
      facts.replaceChildren(
        el('b', {class: 'num'}, String(now.replicas)),
        ` ${what} serve, `,
        el('b', {class: 'num'}, String(now.wanted)),
        ' wanted',
        ...(change === 0
          ? []
          : [el('span', {class: 'tag warn'}, change > 0 ? `${change} more` : `${-change} fewer`)]),
      );
      setText(
        note,
        `between ${now.floor} and ${now.ceiling}, sized by ${now.reason} · work waits ${now.wait_ms.toFixed(1)} ms`,
      );
      plot.update(history.pools.get(pool));
    }
    const {values} = history.traffic;
    const last = (column) => values[column][values[column].length - 1];
    this.traffic.facts.replaceChildren(
      el('b', {class: 'num'}, count(last('tokens') ?? NaN)),
      ' tokens/s, ',
      el('b', {class: 'num'}, count(last('running') ?? NaN)),
      ' running',
    );
    setText(
      this.traffic.note,
      `${count(last('waiting') ?? NaN)} sequences wait for a place at a shard`,
    );
    this.traffic.plot.update(history.traffic);
  }
}
