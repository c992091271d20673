// docs/metrics.md against the code: every metric the sources register has a row with its type and
// its help text, and nothing else has one. `node metrics_doc.mjs --write` brings the rows up to
// date; labels and notes are kept, and are written by hand.
import {readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const page = join(root, 'docs/metrics.md');

// Calls that register: the telemetry API, and the shorthands of shard_metrics.cpp.
const TYPES = {
  counter: 'counter',
  count: 'counter',
  gauge: 'gauge',
  show: 'gauge',
  histogram: 'histogram',
};
const REGISTRATION =
  /\b(counter|gauge|histogram|count|show)\(\s*(?:\w*metrics_?,\s*)?"(fulgur_\w+)",\s*((?:"[^"]*"\s*)+)/g;
// Rows of a table of names and help texts that a loop registers.
const ROW = /\{\s*"(fulgur_\w+)",\s*((?:"[^"]*"\s*)+)/g;
// Rows of a table of aliases and sources.
const ALIAS = /\{\s*"(vllm:\w+)",\s*"(fulgur_\w+)"/g;
const SECTIONS = {
  router: 'Router',
  attention: 'Attention shard',
  expert: 'Expert worker',
  orchestrator: 'Orchestrator',
  service: 'Every process',
};

/** [{section, name, type, help}] and [{section, alias, source}] as the sources have them. */
export function registered() {
  const metrics = [];
  const aliases = [];
  for (const folder of ['services', 'common']) {
    for (const file of readdirSync(join(root, folder), {recursive: true})) {
      if (!/\.[ch]pp$/.test(file)) continue;
      const text = readFileSync(join(root, folder, file), 'utf8');
      const section = folder === 'services' ? file.split('/')[0] : 'service';
      const rows = [...text.matchAll(ROW)].map(([all, name, help]) => [
        all,
        name.endsWith('_total') ? 'counter' : 'gauge',
        name,
        help,
      ]);
      const found = [...text.matchAll(REGISTRATION), ...rows];
      for (const [, call, name, help] of found) {
        metrics.push({
          section,
          name,
          type: TYPES[call],
          help: [...help.matchAll(/"([^"]*)"/g)].map((part) => part[1]).join(''),
        });
      }
      for (const [, alias, source] of text.matchAll(ALIAS)) aliases.push({section, alias, source});
      const seen = new Set([...found.map((m) => m[2]), ...aliases.map((a) => a.source)]);
      for (const [, name] of text.matchAll(/"(fulgur_[a-z0-9]\w*)"/g)) {
        if (!seen.has(name)) throw new Error(`${folder}/${file}: how is ${name} registered?`);
      }
    }
  }
  return {metrics, aliases};
}

function unit(name) {
  const stem = name.replace(/_total$/, '');
  for (const known of ['seconds', 'bytes', 'ratio']) if (stem.endsWith(`_${known}`)) return known;
  return '1';
}

/** Rows of the page: Map of "section name" → {type, unit, labels, meaning}. */
export function documented() {
  const rows = new Map();
  let section = '';
  for (const line of readFileSync(page, 'utf8').split('\n')) {
    const heading = /^## (.*)/.exec(line);
    if (heading) {
      section = Object.keys(SECTIONS).find((key) => SECTIONS[key] === heading[1]) ?? '';
    }
    const row = /^\| `(fulgur_\w+)` \| (\w+) \| (\S+) \| (.*?) \| (.*) \|$/.exec(line);
    if (row && section) {
      const [, name, type, unitText, labels, meaning] = row;
      rows.set(`${section} ${name}`, {name, type, unit: unitText, labels, meaning});
    }
  }
  return rows;
}

function table(section, metrics, old) {
  const lines = ['| name | type | unit | labels | meaning |', '| --- | --- | --- | --- | --- |'];
  const own = metrics.filter((m) => m.section === section);
  own.sort((a, b) => a.name.localeCompare(b.name));
  const unique = own.filter((m, at) => at === 0 || own[at - 1].name !== m.name);
  for (const {name, type, help} of unique) {
    const before = old.get(`${section} ${name}`);
    const note = before?.meaning.includes(' — ') ? ` — ${before.meaning.split(' — ')[1]}` : '';
    lines.push(
      `| \`${name}\` | ${type} | ${unit(name)} | ${before?.labels ?? ''} | ${help}${note} |`,
    );
  }
  return lines.join('\n');
}

function updated() {
  const {metrics, aliases} = registered();
  const old = documented();
  let text = readFileSync(page, 'utf8');
  for (const [section, title] of Object.entries(SECTIONS)) {
    const pattern = new RegExp(`(## ${title}\\n(?:(?!## )[^|]*\\n)*?)(\\| name[^]*?\\|\\n)(?!\\|)`);
    if (!pattern.test(text)) throw new Error(`docs/metrics.md: no table under ## ${title}`);
    text = text.replace(pattern, (_, head) => `${head}${table(section, metrics, old)}\n`);
  }
  const lines = aliases.map((a) => `| \`${a.alias}\` | ${a.section} | \`${a.source}\` |`).sort();
  return text.replace(/(\| alias[^\n]*\n\| --- [^\n]*\n)(\|[^\n]*\n)*/, `$1${lines.join('\n')}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const now = readFileSync(page, 'utf8');
  const wanted = updated();
  if (process.argv.includes('--write')) {
    writeFileSync(page, wanted);
  } else if (now !== wanted) {
    const have = new Set(now.split('\n'));
    const want = new Set(wanted.split('\n'));
    for (const line of want) if (!have.has(line)) console.log(`missing: ${line}`);
    for (const line of have) if (!want.has(line)) console.log(`stale:   ${line}`);
    console.log(
      'docs/metrics.md is not what the code registers: node tests/deploy/metrics_doc.mjs --write',
    );
    process.exit(1);
  }
}
