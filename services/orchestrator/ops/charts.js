// Charts over time by uPlot, in the page's colours, as wide as their host; and sparklines.
import {colour, darkScheme, el} from './dom.js';

const two = (n) => String(n).padStart(2, '0');
const clock = (seconds) => {
  const at = new Date(seconds * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
};

/** A chart of lines: `series` is [{label, column, colour, scale, dash, fill, show(value)}]. */
export class TimeChart {
  constructor(host, {label, height = 170, scales, series}) {
    Object.assign(this, {host, label, height, scales, series, columns: null, plot: null});
    host.setAttribute('role', 'img');
    host.setAttribute('aria-label', label);
    new ResizeObserver(() => this.fit()).observe(host);
    darkScheme.addEventListener('change', () => this.build());
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.host.clientWidth;
    if (!this.columns || this.columns.times.length < 2 || width === 0) return;
    const soft = colour('--soft');
    const axis = {
      stroke: soft,
      grid: {stroke: colour('--line'), width: 1},
      ticks: {show: false},
      font: '11px system-ui, sans-serif',
    };
    const sides = Object.entries(this.scales);
    this.plot = new uPlot(
      {
        width,
        height: this.height,
        cursor: {y: false, points: {size: 6}},
        legend: {show: true, live: true},
        scales: {
          x: {time: true},
          ...Object.fromEntries(sides.map(([name, {range}]) => [name, {range}])),
        },
        axes: [
          {
            ...axis,
            size: 26,
            space: 70,
            values: (_, splits) =>
              splits.map((at) => clock(at).slice(0, 5 + 3 * (this.span() < 300))),
          },
          ...sides.map(([name, {side, values, size = 40}]) => ({
            ...axis,
            scale: name,
            side,
            values,
            size,
            gap: 4,
            space: 28,
            grid: side === 1 ? {show: false} : axis.grid,
          })),
        ],
        series: [
          {label: 'time', value: (_, at) => (at === null ? '–' : clock(at))},
          ...this.series.map(({label, colour: name, scale, dash, fill, step, show}) => ({
            label,
            scale,
            dash,
            width: 2,
            points: {show: false},
            spanGaps: false,
            stroke: colour(name),
            fill: fill ? colour(fill) : undefined,
            paths: step ? uPlot.paths.stepped({align: 1}) : undefined,
            value: (_, value) => (value === null || Number.isNaN(value) ? '–' : show(value)),
          })),
        ],
      },
      this.data(),
      this.host,
    );
    this.showNewest();
  }

  span() {
    const {times} = this.columns;
    return times.length > 1 ? times[times.length - 1] - times[0] : 0;
  }
  data() {
    return [this.columns.times, ...this.series.map(({column}) => this.columns.values[column])];
  }
  fit() {
    if (!this.plot) return this.build();
    const width = this.host.clientWidth;
    if (width > 0 && width !== this.plot.width) this.plot.setSize({width, height: this.height});
  }
  /** The legend shows the newest values while nobody points at others. */
  showNewest() {
    if (this.plot.cursor.idx === null || this.plot.cursor.left < 0)
      this.plot.setLegend({idx: this.columns.times.length - 1});
  }
  update(columns) {
    this.columns = columns;
    if (!this.plot) return this.build();
    this.plot.setData(this.data());
    this.showNewest();
  }
}

/** A small line of `values`, NaN where nothing is known, around `middle`. */
export function sparkline(canvas, values, {middle = 1, stroke}) {
  const ratio = devicePixelRatio || 1;
  const {clientWidth: width, clientHeight: height} = canvas;
  if (width === 0) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext('2d');
  pen.scale(ratio, ratio);
  const known = values.filter((value) => !Number.isNaN(value));
  const high = Math.max(2 * middle, ...known);
  const y = (value) => height - 2 - ((height - 4) * value) / high;
  pen.strokeStyle = colour('--line');
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(0, y(middle));
  pen.lineTo(width, y(middle));
  pen.stroke();
  pen.setLineDash([]);
  pen.strokeStyle = stroke;
  pen.lineWidth = 1.5;
  pen.lineJoin = 'round';
  pen.beginPath();
  let drawing = false;
  const step = width / Math.max(60, values.length - 1);
  const first = width - step * (values.length - 1);
  values.forEach((value, at) => {
    if (Number.isNaN(value)) drawing = false;
    else if (drawing) pen.lineTo(first + at * step, y(value));
    else (pen.moveTo(first + at * step, y(value)), (drawing = true));
  });
  pen.stroke();
}

export const meter = (part, text) => {
  const bar = el('span', {class: 'meter', 'aria-hidden': 'true'}, el('i'));
  setMeter(bar, part);
  return el('span', {class: 'metered'}, bar, el('span', {class: 'num'}, text));
};
export function setMeter(bar, part) {
  bar.firstElementChild.style.width = `${Math.round(100 * (Number.isFinite(part) ? part : 0))}%`;
}
