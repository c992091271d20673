// Every query of every dashboard, run by a real Prometheus over a real mesh under load, must return
// data; and what the processes show must be what docs/metrics.md says, labels included.
//   node dashboards.mjs FOLDER_OF_PROGRAMS [--pictures FOLDER]
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

import {DASHBOARDS} from '../../deploy/grafana/dashboards.mjs';
import {LoadedMesh} from './loaded_mesh.mjs';
import {documented} from './metrics_doc.mjs';
import {picture} from './pictures.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const [programs, option, pictures] = process.argv.slice(2);
const kLoadSeconds = 40;
const problems = [];

function skip(why) {
  console.log(`SKIPPED: ${why}`);
  process.exit(77);
}

const filled = (expr) => expr.replaceAll('$mesh', 'test').replaceAll('$__rate_interval', '15s');
const isNumber = ([, text]) => Number.isFinite(Number(text));

async function checkPanels(mesh) {
  const seen = {};
  let count = 0;
  for (const [name, {panels}] of Object.entries(DASHBOARDS)) {
    seen[name] = [];
    for (const panel of panels) {
      const answers = [];
      for (const target of panel.targets) {
        const series = await mesh.query(filled(target.expr), target.instant ? 0 : kLoadSeconds);
        answers.push({target, series});
        ++count;
        if (!series.some(({values}) => values.some(isNumber))) {
          problems.push(`${name} / ${panel.title}: no data from ${filled(target.expr)}`);
        }
      }
      seen[name].push({panel, answers});
    }
  }
  console.log(`${count} queries of ${Object.keys(DASHBOARDS).length} dashboards`);
  return seen;
}

async function checkVariables(mesh) {
  for (const [name, {templating, annotations}] of Object.entries(DASHBOARDS)) {
    for (const variable of templating.list.filter((one) => one.type === 'query')) {
      const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(variable.query.query);
      const values = await mesh.labelValues(metric, label);
      if (values.join() !== 'test')
        problems.push(`${name}: variable ${variable.name} offers ${values}`);
    }
    for (const annotation of annotations.list)
      await mesh.query(filled(annotation.expr), kLoadSeconds);
  }
}

/** Families of an exposition: Map of name → {type, labels}. */
function families(text) {
  const found = new Map();
  let current;
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (\S+)/.exec(line);
    if (type) found.set(type[1], (current = {type: type[2], labels: new Set()}));
    const labels = /^[^#\s{]+\{(.*)\}/.exec(line);
    if (labels) {
      for (const [, label] of labels[1].matchAll(/(\w+)="/g))
        if (label !== 'le') current.labels.add(label);
    }
  }
  return found;
}

function checkFamilies(service, text, rows) {
  for (const [name, {type, labels}] of families(text)) {
    if (name.startsWith('vllm:')) continue;
    const row = rows.get(`${service.kind} ${name}`) ?? rows.get(`service ${name}`);
    if (!row) {
      problems.push(`${service.name} shows ${name}, which docs/metrics.md does not list for it`);
      continue;
    }
    if (row.type !== type) problems.push(`${name} is a ${type}, documented as ${row.type}`);
    const told = [...row.labels.matchAll(/`(\w+)`/g)]
      .map((match) => match[1])
      .sort()
      .join();
    const shown = [...labels].sort().join();
    if (told !== shown) problems.push(`${name} has labels "${shown}", documented as "${told}"`);
  }
  const lint = spawnSync('promtool', ['check', 'metrics'], {input: text, encoding: 'utf8'});
  const complaints = `${lint.stdout}${lint.stderr}`
    .split('\n')
    .filter((line) => line && !line.startsWith('vllm:'));
  if (!lint.error)
    for (const line of complaints) problems.push(`promtool about ${service.name}: ${line}`);
}

if (spawnSync('prometheus', ['--version']).error)
  skip('prometheus is not installed (Debian package: prometheus)');
if (!existsSync(join(programs, 'fulgur')))
  skip(`the programs are not built: no ${join(programs, 'fulgur')}`);
const mesh = new LoadedMesh(root, programs);
let failure;
try {
  await mesh.startMesh(2, 2);
  await mesh.startPrometheus();
  await mesh.load(kLoadSeconds, 6);
  const seen = await checkPanels(mesh);
  await checkVariables(mesh);
  const rows = documented();
  for (const service of mesh.services) checkFamilies(service, await mesh.metrics(service), rows);
  if (option === '--pictures') {
    mkdirSync(pictures, {recursive: true});
    for (const [name, panels] of Object.entries(seen)) {
      writeFileSync(join(pictures, `${name}.svg`), picture(DASHBOARDS[name].title, panels));
    }
  }
} catch (error) {
  failure = error;
}
await mesh.stop(failure !== undefined || problems.length > 0);
if (failure) throw failure;
for (const problem of new Set(problems)) console.log(problem);
process.exit(problems.length > 0 ? 1 : 0);
