// Layers by experts on one canvas: load, load a replica, or replicas. Colours grow steadily darker
// (or lighter, in the dark), so that they can be told apart without seeing hues; every number is
// also text. Pointer and arrow keys move a cursor, a click or Enter keeps it.
import {$, colour, count, darkScheme, el, plural, setText, times} from './dom.js';

const RAMPS = {
  light: ['#f7f1e6', '#f3cf98', '#df9138', '#a9511a', '#4b1806'],
  dark: ['#28221c', '#5c3415', '#a75f17', '#e5a044', '#fff0cc'],
};
const HEIGHT_MAX = 600;
const TOP = 6; // hottest experts listed

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** 256 colours from low to high as [r, g, b]. */
function ramp(stops) {
  return Array.from({length: 256}, (_, step) => {
    const at = (step / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const [a, b] = [channels(stops[low]), channels(stops[low + 1])];
    return a.map((value, i) => Math.round(value + (at - low) * (b[i] - value)));
  });
}
const rgb = (c) => `rgb(${c.join(',')})`;
const luminance = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b) / 255;

export class HeatMap {
  constructor() {
    Object.assign(this, {
      load: null,
      placement: null,
      mode: 'load',
      cursor: null,
      kept: false,
      worker: null,
    });
    this.canvas = $('heat-canvas');
    new ResizeObserver(() => this.draw()).observe($('heat-map'));
    darkScheme.addEventListener('change', () => this.draw());
    $('heat-mode').addEventListener('change', (event) => {
      this.mode = event.target.value;
      this.draw();
    });
    this.canvas.addEventListener('pointermove', (event) => this.hover(event));
    this.canvas.addEventListener('pointerleave', () => this.leave());
    this.canvas.addEventListener('click', (event) => this.keep(this.cellAt(event)));
    this.canvas.addEventListener('keydown', (event) => this.onKey(event));
    this.canvas.addEventListener('focus', () => this.draw());
    this.canvas.addEventListener('blur', () => this.draw());
  }

  setLoad(load) {
    this.load = load;
    this.changed = true;
  }
  setPlacement(placement) {
    this.placement = placement;
    this.changed = true;
  }
  showWorker(name) {
    this.worker = name;
    this.draw();
  }

  render() {
    if (!this.changed) return;
    this.changed = false;
    this.draw();
  }

  // ---- numbers

  holders(cell) {
    const {workers, holders} = this.placement ?? {workers: [], holders: []};
    return (holders[cell] ?? []).map((at) => workers[at]);
  }

  /** Per cell what the mode colours, and the largest of it. */
  values() {
    const {layers, experts, tokens} = this.load;
    const values = new Float64Array(layers * experts);
    for (let layer = 0; layer < layers; ++layer) {
      let sum = 0;
      let replicas = 0;
      for (let expert = 0; expert < experts; ++expert) {
        sum += tokens[layer * experts + expert];
        replicas += Math.max(1, this.holders(layer * experts + expert).length);
      }
      for (let expert = 0; expert < experts; ++expert) {
        const cell = layer * experts + expert;
        const held = this.holders(cell).length;
        if (this.mode === 'replicas') values[cell] = held;
        else if (sum === 0) values[cell] = 0;
        else if (this.mode === 'load') values[cell] = (tokens[cell] * experts) / sum;
        else values[cell] = (tokens[cell] / Math.max(1, held)) * (replicas / sum);
      }
    }
    return values;
  }

  // ---- drawing

  layout() {
    const {layers, experts} = this.load;
    const width = $('heat-map').clientWidth;
    const side = {left: 34, top: 30};
    const size = (rows, columns) => {
      const w = (width - side.left) / columns;
      return {w, h: Math.max(7, Math.min(w, 36, (HEIGHT_MAX - side.top) / rows))};
    };
    const upright = size(layers, experts);
    const lying = size(experts, layers);
    const least = ({w, h}) => Math.min(w, h);
    const turned = least(lying) > least(upright) && lying.w >= 7;
    const cell = turned ? lying : upright;
    return {
      ...side,
      ...cell,
      width,
      turned,
      rows: turned ? experts : layers,
      columns: turned ? layers : experts,
    };
  }

  place(cell, {turned, left, top, w, h}) {
    const layer = Math.floor(cell / this.load.experts);
    const expert = cell % this.load.experts;
    const [row, column] = turned ? [expert, layer] : [layer, expert];
    return {x: left + column * w, y: top + row * h, row, column};
  }

  draw() {
    if (!this.load || $('heat-map').clientWidth === 0) return;
    const view = (this.view = this.layout());
    const height = Math.ceil(view.top + view.rows * view.h + 2);
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(view.width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext('2d');
    pen.scale(ratio, ratio);
    const values = this.values();
    const most = Math.max(this.mode === 'replicas' ? 1 : 2, ...values);
    const colours = ramp(RAMPS[darkScheme.matches ? 'dark' : 'light']);
    const held = this.placement?.workers.length > 0;
    const gap = Math.min(view.w, view.h) >= 8 ? 1 : 0.5;
    const numbers = view.w >= 38 && view.h >= 18;
    const only = this.worker ? this.placement?.workers.indexOf(this.worker) : -1;
    pen.font = '11px system-ui, sans-serif';
    pen.textAlign = 'center';
    pen.textBaseline = 'middle';
    for (let cell = 0; cell < values.length; ++cell) {
      const {x, y} = this.place(cell, view);
      const fill = colours[Math.round((255 * values[cell]) / most)];
      pen.globalAlpha = only >= 0 && !this.placement.holders[cell].includes(only) ? 0.18 : 1;
      pen.fillStyle = rgb(fill);
      pen.fillRect(x, y, view.w - gap, view.h - gap);
      if (numbers) {
        pen.fillStyle = luminance(fill) > 0.55 ? '#24211c' : '#ffffff';
        pen.fillText(
          this.mode === 'replicas' ? String(values[cell]) : values[cell].toFixed(1),
          x + view.w / 2,
          y + view.h / 2,
        );
      }
      if (held && this.placement.holders[cell].length === 0) this.cross(pen, x, y, view, gap);
    }
    pen.globalAlpha = 1;
    this.drawLabels(pen, view);
    this.drawCursor(pen, view, gap);
    this.drawScale(most, colours);
    this.showTop();
    this.showCell();
    Object.assign(this.canvas.dataset, {
      layers: this.load.layers,
      experts: this.load.experts,
      turned: view.turned,
    });
  }

  /** An expert that nobody holds. */
  cross(pen, x, y, {w, h}, gap) {
    pen.strokeStyle = colour('--bad');
    pen.lineWidth = 1.5;
    pen.strokeRect(x + 1, y + 1, w - gap - 2, h - gap - 2);
    pen.beginPath();
    pen.moveTo(x + 1, y + 1);
    pen.lineTo(x + w - gap - 1, y + h - gap - 1);
    pen.stroke();
  }

  drawLabels(pen, {left, top, w, h, rows, columns, turned}) {
    pen.fillStyle = colour('--soft');
    const every = (room, size) =>
      [1, 2, 4, 5, 8, 10, 16, 20, 50].find((n) => n * size >= room) ?? 100;
    const across = every(20, w);
    for (let column = 0; column < columns; column += across)
      pen.fillText(String(column), left + (column + 0.5) * w, top - 8);
    const down = every(13, h);
    pen.textAlign = 'right';
    for (let row = 0; row < rows; row += down)
      pen.fillText(String(row), left - 6, top + (row + 0.5) * h);
    pen.textAlign = 'left';
    pen.fillText(`${turned ? 'layer' : 'expert'} →`, left, 7);
    pen.save();
    pen.translate(7, top);
    pen.rotate(Math.PI / 2);
    pen.fillText(`${turned ? 'expert' : 'layer'} →`, 0, 0);
    pen.restore();
  }

  drawCursor(pen, view, gap) {
    if (this.cursor === null) return;
    const {x, y} = this.place(this.cursor, view);
    pen.lineWidth = 4;
    pen.strokeStyle = colour('--card');
    pen.strokeRect(x - 1, y - 1, view.w - gap + 2, view.h - gap + 2);
    pen.lineWidth = 2;
    pen.strokeStyle = this.kept ? colour('--focus') : colour('--ink');
    pen.strokeRect(x - 1, y - 1, view.w - gap + 2, view.h - gap + 2);
  }

  drawScale(most, colours) {
    const host = $('heat-scale');
    let bar = host.querySelector('canvas');
    if (!bar) {
      bar = el('canvas', {width: 256, height: 1, 'aria-hidden': 'true'});
      host.append(
        el('span', {class: 'num'}),
        bar,
        el('span', {class: 'num'}),
        el('span', {class: 'soft'}),
      );
    }
    const pen = bar.getContext('2d');
    colours.forEach((c, at) => {
      pen.fillStyle = rgb(c);
      pen.fillRect(at, 0, 1, 1);
    });
    const [low, high, words] = host.querySelectorAll('span');
    const counts = this.mode === 'replicas';
    setText(low, counts ? '0' : '0×');
    setText(high, counts ? String(most) : `${most.toFixed(1)}×`);
    setText(
      words,
      {
        load: '1× is an even share of its layer’s tokens',
        each: '1× is an even share for each replica of the layer',
        replicas: 'replicas in the committed epoch',
      }[this.mode],
    );
  }

  // ---- words

  describe(cell) {
    const {experts, tokens} = this.load;
    const layer = Math.floor(cell / experts);
    let sum = 0;
    for (let expert = 0; expert < experts; ++expert) sum += tokens[layer * experts + expert];
    return {
      cell,
      layer,
      expert: cell % experts,
      tokens: tokens[cell],
      factor: sum > 0 ? (tokens[cell] * experts) / sum : NaN,
      holders: this.holders(cell),
    };
  }

  showCell() {
    const host = $('heat-cell');
    const key = this.cursor === null ? '' : JSON.stringify([this.describe(this.cursor), this.kept]);
    if (host.dataset.key === key) return;
    host.dataset.key = key;
    if (this.cursor === null) {
      host.replaceChildren(
        el(
          'p',
          {class: 'soft'},
          'Point at a cell, or move with the arrow keys, to see who holds an expert. Pick a worker above to see what it holds.',
        ),
      );
      return;
    }
    const {layer, expert, tokens, factor, holders} = this.describe(this.cursor);
    host.replaceChildren(
      el(
        'h3',
        {},
        `Layer ${layer}, expert ${expert}`,
        this.kept ? el('span', {class: 'tag'}, 'kept') : null,
      ),
      el(
        'p',
        {},
        el('b', {class: 'num'}, count(tokens)),
        ' recent tokens, ',
        el('b', {class: 'num'}, times(factor)),
        ' an even share',
      ),
      holders.length === 0
        ? el('p', {class: 'bad'}, 'nobody holds it')
        : el(
            'p',
            {},
            `${plural(holders.length, 'replica')}: `,
            el('span', {class: 'names'}, holders.join(', ')),
          ),
    );
  }

  showTop() {
    const {layers, experts, tokens} = this.load;
    const sums = Array.from({length: layers}, (_, layer) =>
      tokens.slice(layer * experts, (layer + 1) * experts).reduce((sum, own) => sum + own, 0),
    );
    const share = (cell) => tokens[cell] / sums[Math.floor(cell / experts)];
    const cells = [...tokens.keys()].filter((cell) => tokens[cell] > 0);
    cells.sort((a, b) => share(b) - share(a) || a - b);
    const rows = cells.slice(0, TOP).map((cell) => {
      const {layer, expert, tokens: own, factor, holders} = this.describe(cell);
      const go = el(
        'button',
        {class: 'plain num', 'aria-label': `layer ${layer}, expert ${expert}: show`},
        String(layer),
      );
      go.addEventListener('click', () => this.keep(cell));
      return el(
        'tr',
        {},
        el('td', {}, go),
        ...[expert, count(own), times(factor), holders.length].map((text) =>
          el('td', {class: 'num'}, String(text)),
        ),
      );
    });
    const body = $('heat-top').tBodies[0];
    const key = rows.map((row) => row.textContent).join('|');
    if (body.dataset.key !== key) {
      body.dataset.key = key;
      body.replaceChildren(...rows);
    }
    $('heat-top').hidden = rows.length === 0;
    setText(
      $('heat-note'),
      `${plural(layers, 'layer')} × ${plural(experts, 'expert')}${rows.length === 0 ? ': no tokens yet' : ''}`,
    );
  }

  // ---- pointer and keys

  cellAt(event) {
    const {left, top, w, h, rows, columns, turned} = this.view ?? {};
    if (w === undefined) return null;
    const column = Math.floor((event.offsetX - left) / w);
    const row = Math.floor((event.offsetY - top) / h);
    if (column < 0 || row < 0 || column >= columns || row >= rows) return null;
    return turned ? column * this.load.experts + row : row * this.load.experts + column;
  }

  moveTo(cell) {
    if (cell === this.cursor) return;
    this.cursor = cell;
    this.draw();
  }
  hover(event) {
    if (!this.kept && event.pointerType !== 'touch') this.moveTo(this.cellAt(event));
  }
  leave() {
    if (!this.kept && document.activeElement !== this.canvas) this.moveTo(null);
  }
  keep(cell) {
    this.kept = cell !== null && !(this.kept && cell === this.cursor);
    this.cursor = cell;
    this.draw();
  }

  onKey(event) {
    if (!this.load) return;
    const {layers, experts} = this.load;
    const turned = this.view.turned;
    const cell = this.cursor ?? 0;
    let layer = Math.floor(cell / experts);
    let expert = cell % experts;
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[
      event.key
    ];
    if (event.key === 'Escape') this.keep(null);
    else if (event.key === 'Enter') this.keep(cell);
    else if (event.key === 'Home') this.moveTo(0);
    else if (event.key === 'End') this.moveTo(layers * experts - 1);
    else if (step) {
      if (this.cursor !== null) {
        layer += turned ? step[1] : step[0];
        expert += turned ? step[0] : step[1];
      }
      layer = Math.max(0, Math.min(layers - 1, layer));
      expert = Math.max(0, Math.min(experts - 1, expert));
      this.moveTo(layer * experts + expert);
    } else return;
    event.preventDefault();
  }
}
