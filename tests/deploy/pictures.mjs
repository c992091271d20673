// Draws a dashboard's panels from what their queries returned, as SVG: what Grafana would show, for
// the docs and for eyes that have no Grafana. Same places, same units, plain shapes.
const COLOURS = [
  '#7eb26d',
  '#eab839',
  '#6ed0e0',
  '#ef843c',
  '#e24d42',
  '#1f78c1',
  '#ba43a9',
  '#705da0',
  '#508642',
  '#cca300',
  '#447ebc',
  '#c15c17',
  '#890f02',
  '#0a437c',
  '#6d1f62',
  '#584477',
];
const COLUMN = 50;
const ROW = 26;
const GAP = 6;
const escape = (text) =>
  String(text).replace(/[&<>]/g, (c) => ({'&': '&amp;', '<': '&lt;', '>': '&gt;'})[c]);
const text = (x, y, body, {size = 11, colour = '#ccccdc', anchor = 'start', weight = 400} = {}) =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" fill="${colour}" ` +
  `text-anchor="${anchor}" font-weight="${weight}">${escape(body)}</text>`;
const box = (x, y, w, h, fill, more = '') =>
  `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${w.toFixed(1)}" height="${h.toFixed(1)}" fill="${fill}" ${more}/>`;

function shown(value, unit) {
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  if (unit === 'percentunit') return `${(value * 100).toPrecision(3)} %`;
  if (unit === 's')
    return value >= 1
      ? `${value.toPrecision(3)} s`
      : value >= 1e-3
        ? `${(value * 1e3).toPrecision(3)} ms`
        : `${(value * 1e6).toPrecision(3)} µs`;
  const suffix = {bytes: 'B', Bps: 'B/s', reqps: ' req/s'}[unit] ?? '';
  for (const [limit, letter] of [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ]) {
    if (Math.abs(value) >= limit) return `${(value / limit).toPrecision(3)} ${letter}${suffix}`;
  }
  return `${Number(value.toPrecision(3))}${suffix}`;
}

const named = (target, metric) =>
  target.legendFormat === '__auto'
    ? Object.values(metric).join(' ')
    : target.legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? '');
const last = (values) => Number(values[values.length - 1][1]);
const series = (answers) =>
  answers.flatMap(({target, series: all}) =>
    all.map(({metric, values}) => ({name: named(target, metric), metric, values})),
  );

/** The least of 1, 2, 4, 6, 8, 10 times a power of ten that is no less: half of it is as short. */
function roundTop(highest) {
  if (!(highest > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return power * [1, 2, 4, 6, 8, 10].find((step) => step * power >= highest * 0.999);
}

/** As many names as there is room for, the others counted. */
function drawLegend({x, y, w, h}, names) {
  const width = (name) => 20 + name.length * 5.6;
  const whole = names.reduce((sum, name) => sum + width(name), 0);
  const room = w - 68 - (whole > w - 68 ? width('+ 99') : 0);
  let used = 0;
  const fits = names.filter((name) => (used += width(name)) <= room);
  let left = x + 58;
  const marks = fits.map((name, at) => {
    const mark =
      box(left, y + h - 17, 9, 3, COLOURS[at % 16]) +
      text(left + 13, y + h - 12, name, {size: 9.5});
    left += width(name);
    return mark;
  });
  const rest = names.length - fits.length;
  if (rest > 0) marks.push(text(left, y + h - 12, `+ ${rest}`, {size: 9.5}));
  return marks.join('');
}

/** Points of the upper edge, and of the lower: the series below it when they are stacked. */
function edges(all, stack) {
  const sums = new Map();
  return all.map(({name, values}) => {
    const known = values.filter(([, value]) => Number.isFinite(Number(value)));
    const lower = known.map(([time]) => [time, sums.get(time) ?? 0]);
    const base = (at) => (stack ? lower[at][1] : 0);
    const upper = known.map(([time, value], at) => [time, Number(value) + base(at)]);
    if (stack) for (const [time, value] of upper) sums.set(time, value);
    return {name, lower, upper};
  });
}

/** Those that were ever above zero first: the legend has no room for everything that never was. */
function liveFirst(all) {
  const live = ({values}) => values.some(([, value]) => Number(value) > 0);
  return [...all.filter(live), ...all.filter((one) => !live(one))];
}

function drawLines({x, y, w, h}, panel, answers) {
  const all = liveFirst(series(answers)).slice(0, 16);
  const stack = panel.fieldConfig.defaults.custom.stacking.mode === 'normal';
  const {unit} = panel.fieldConfig.defaults;
  const times = [...new Set(all.flatMap(({values}) => values.map(([time]) => time)))].sort(
    (a, b) => a - b,
  );
  const drawn = edges(all, stack);
  const top = roundTop(Math.max(0, ...drawn.flatMap(({upper}) => upper.map(([, value]) => value))));
  const plot = {x: x + 58, y: y + 30, w: w - 68, h: h - 62};
  const px = (time) =>
    plot.x + (plot.w * (time - times[0])) / Math.max(1, times[times.length - 1] - times[0]);
  const py = (value) => plot.y + plot.h - (plot.h * value) / top;
  const path = (points) =>
    points.map(([time, value]) => `${px(time).toFixed(1)},${py(value).toFixed(1)}`).join(' ');
  let out = '';
  for (let step = 0; step <= 2; ++step) {
    const value = (top * step) / 2;
    out +=
      box(plot.x, py(value), plot.w, 0.5, '#34363c') +
      text(plot.x - 5, py(value) + 4, shown(value, unit), {size: 9, anchor: 'end'});
  }
  drawn.forEach(({lower, upper}, at) => {
    const colour = COLOURS[at % 16];
    const area = path([...upper, ...[...lower].reverse()]);
    if (stack) out += `<polygon points="${area}" fill="${colour}" fill-opacity="0.35"/>`;
    out += `<polyline points="${path(upper)}" fill="none" stroke="${colour}" stroke-width="1.3"/>`;
  });
  const names = drawn.map(({name}) => name);
  return out + drawLegend({x, y, w, h}, names);
}

const NAMED = {green: '#73bf69', orange: '#ff9830', red: '#f2495c'};
const stepColour = ({steps}, value) =>
  steps.filter((one) => one.value === null || value >= one.value).pop().color;

function drawStat({x, y, w, h}, panel, answers) {
  const {unit, thresholds, mappings} = panel.fieldConfig.defaults;
  const value = last(series(answers)[0].values);
  const mapped = mappings[0]?.options[value];
  const colour = NAMED[mapped?.color ?? stepColour(thresholds, value)];
  return text(x + w / 2, y + h / 2 + 20, mapped?.text ?? shown(value, unit), {
    size: 26,
    colour,
    anchor: 'middle',
    weight: 600,
  });
}

function drawBars({x, y, w}, panel, answers) {
  const all = series(answers);
  const most = Math.max(1, ...all.map(({values}) => last(values)));
  return all
    .map(({name, values}, at) => {
      const top = y + 36 + at * 30;
      const width = w - 170;
      return (
        text(x + 10, top + 14, name) +
        box(x + 90, top, width, 20, '#22252b') +
        box(x + 90, top, (width * last(values)) / most, 20, '#73bf69') +
        text(x + w - 10, top + 14, shown(last(values), panel.fieldConfig.defaults.unit), {
          anchor: 'end',
        })
      );
    })
    .join('');
}

const heatColour = (share) =>
  `hsl(${(55 - 55 * share).toFixed(0)}, 90%, ${(92 - 47 * share).toFixed(0)}%)`;

function drawMatrix({x, y, w, h}, panel, answers) {
  const {rowField, columnField} = panel.transformations[0].options;
  const all = series(answers);
  const order = (label) => [...new Set(all.map(({metric}) => metric[label]))].sort((a, b) => a - b);
  const rows = order(rowField);
  const columns = order(columnField);
  const {color, thresholds} = panel.fieldConfig.defaults;
  const found = all.map(({values}) => last(values));
  const [least, most] = [Math.min(...found), Math.max(...found)];
  const colourOf = (value) =>
    color.mode === 'thresholds'
      ? NAMED[stepColour(thresholds, value)]
      : heatColour((value - least) / Math.max(1e-12, most - least));
  const cell = {w: (w - 70) / columns.length, h: (h - 60) / rows.length};
  let out =
    columns
      .map((name, at) =>
        text(x + 60 + (at + 0.5) * cell.w, y + 42, name, {size: 9, anchor: 'middle'}),
      )
      .join('') +
    rows
      .map((name, at) => text(x + 50, y + 52 + (at + 0.6) * cell.h, name, {size: 9, anchor: 'end'}))
      .join('');
  for (const {metric, values} of all) {
    const left = x + 60 + columns.indexOf(metric[columnField]) * cell.w;
    const top = y + 50 + rows.indexOf(metric[rowField]) * cell.h;
    out +=
      box(left, top, cell.w - 1, cell.h - 1, colourOf(last(values))) +
      text(left + cell.w / 2, top + cell.h / 2 + 4, shown(last(values), 'none'), {
        size: 9,
        colour: '#222',
        anchor: 'middle',
      });
  }
  return out;
}

function drawHeat({x, y, w, h}, panel, answers) {
  const buckets = series(answers)
    .filter(({metric}) => metric.le !== '+Inf')
    .sort((a, b) => Number(a.metric.le) - Number(b.metric.le));
  const steps = buckets[0].values.length;
  const at = (bucket, step) => Number(buckets[bucket]?.values[step]?.[1] ?? 0);
  const own = buckets.map((_, bucket) =>
    Array.from({length: steps}, (__, step) => Math.max(0, at(bucket, step) - at(bucket - 1, step))),
  );
  const used = own
    .map((row, bucket) => (row.some((value) => value > 1e-9) ? bucket : -1))
    .filter((bucket) => bucket >= 0);
  const [low, high] = [Math.min(...used), Math.max(...used)];
  const most = Math.max(...own.flat());
  const cell = {w: (w - 70) / steps, h: (h - 50) / (high - low + 1)};
  let out = '';
  for (let bucket = low; bucket <= high; ++bucket) {
    const top = y + 30 + (high - bucket) * cell.h;
    out += text(x + 54, top + cell.h / 2 + 4, shown(Number(buckets[bucket].metric.le), 's'), {
      size: 9,
      anchor: 'end',
    });
    own[bucket].forEach((value, step) => {
      if (value > 1e-9)
        out += box(
          x + 60 + step * cell.w,
          top,
          cell.w + 0.3,
          cell.h - 1,
          heatColour(Math.sqrt(value / most)),
        );
    });
  }
  return out;
}

const DRAW = {
  timeseries: drawLines,
  stat: drawStat,
  bargauge: drawBars,
  table: drawMatrix,
  heatmap: drawHeat,
};

/** SVG text of a dashboard; `panels`: [{panel, answers: [{target, series}]}]. */
export function picture(title, panels) {
  const height = 40 + ROW * Math.max(...panels.map(({panel: {gridPos}}) => gridPos.y + gridPos.h));
  const body = panels.map(({panel, answers}) => {
    const {x, y, w, h} = panel.gridPos;
    const frame = {x: x * COLUMN + GAP / 2, y: 40 + y * ROW, w: w * COLUMN - GAP, h: h * ROW - GAP};
    const empty = !series(answers).some(({values}) =>
      values.some(([, value]) => Number.isFinite(Number(value))),
    );
    return (
      box(frame.x, frame.y, frame.w, frame.h, '#181b1f', 'stroke="#2c3036"') +
      text(frame.x + 8, frame.y + 17, panel.title, {size: 12, weight: 600}) +
      (empty
        ? text(frame.x + frame.w / 2, frame.y + frame.h / 2, 'no data', {anchor: 'middle'})
        : DRAW[panel.type](frame, panel, answers))
    );
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${24 * COLUMN}" height="${height}" ` +
    `font-family="Inter, Helvetica, sans-serif">${box(0, 0, 24 * COLUMN, height, '#111217')}` +
    `${text(10, 26, title, {size: 16, weight: 600})}${body.join('\n')}</svg>\n`
  );
}
