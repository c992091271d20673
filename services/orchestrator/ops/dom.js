// Elements, lists and numbers. Everything from the mesh becomes text here, never markup.

/** An element; `properties` are attributes, children are elements or text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const $ = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`, in order, keeping elements by key: what has focus
 * keeps it. `make(item)` builds one, `update(element, item)` fills it.
 */
export function syncList(parent, items, key, make, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    let node = known.get(name);
    if (!node) known.set(name, (node = make(item)));
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update(node, item);
  }
  for (const [name, node] of known) {
    if (wanted.has(name)) continue;
    node.remove();
    known.delete(name);
  }
}

/** "expert-2" before "expert-10". */
export const byName = (a, b) => a.name.localeCompare(b.name, 'en', {numeric: true});

export function count(value) {
  if (!Number.isFinite(value)) return '–';
  if (Math.abs(value) < 10_000) return Math.round(value).toLocaleString('en');
  const unit =
    Math.abs(value) >= 1e9 ? [1e9, 'G'] : Math.abs(value) >= 1e6 ? [1e6, 'M'] : [1e3, 'k'];
  return (value / unit[0]).toPrecision(3) + unit[1];
}

export function bytes(value) {
  const power =
    value >= 2 ** 30 ? [2 ** 30, 'GiB'] : value >= 2 ** 20 ? [2 ** 20, 'MiB'] : [1024, 'KiB'];
  return `${(value / power[0]).toFixed(1)} ${power[1]}`;
}

export const percent = (part) => (Number.isFinite(part) ? `${Math.round(100 * part)} %` : '–');
export const times = (factor) =>
  !Number.isFinite(factor) ? '–' : factor > 99 ? '> 99×' : `${factor.toFixed(2)}×`;

/** A duration in words for people: 0.4 s, 12 s, 3 min. */
export function lasting(ms) {
  if (ms < 0) ms = 0;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** Nanoseconds of a small thing. */
export function brief(ns) {
  if (!Number.isFinite(ns)) return '–';
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toPrecision(3)} µs`;
  return `${(ns / 1e6).toPrecision(3)} ms`;
}

export const plural = (n, one, many = `${one}s`) =>
  `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

/** A custom property of the page's present colour scheme. */
export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const darkScheme = matchMedia('(prefers-color-scheme: dark)');
