// The dashboards are what deploy/grafana/dashboards.mjs makes, and fit the types Grafana publishes.
import {readFileSync, readdirSync} from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

import {DASHBOARDS} from '../../deploy/grafana/dashboards.mjs';
import {literal, typecheck} from './typecheck.mjs';

const here = resolve(dirname(fileURLToPath(import.meta.url)), '../../deploy/grafana');
const problems = [];

// Types of a panel's own options and of its fields, by panel type: file, options, field options.
const PANELS = {
  timeseries: ['timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen', 'Options', 'FieldConfig'],
  stat: ['stat/panelcfg/x/StatPanelCfg_types.gen', 'Options'],
  bargauge: ['bargauge/panelcfg/x/BarGaugePanelCfg_types.gen', 'Options'],
  table: ['table/panelcfg/x/TablePanelCfg_types.gen', 'Options', 'FieldConfig'],
  heatmap: ['heatmap/panelcfg/x/HeatmapPanelCfg_types.gen', 'Options', 'FieldConfig'],
};

// JSON has texts where the types have enumerations: Text turns those into their values.
const lines = [
  `import type {Dashboard, Panel} from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';`,
  ...Object.entries(PANELS).map(
    ([type, [file, options, fields]]) =>
      `import type {${options} as ${type}Options${fields ? `, ${fields} as ${type}Fields` : ''}} ` +
      `from '@grafana/schema/dist/esm/raw/composable/${file}';`,
  ),
  'type Text<T> = T extends string ? `${T}` : T extends (infer E)[] ? Text<E>[]' +
    ' : T extends object ? {[K in keyof T]: Text<T[K]>} : T;',
];
for (const [name, made] of Object.entries(DASHBOARDS)) {
  const written = readFileSync(join(here, `${name}.json`), 'utf8');
  if (written !== `${JSON.stringify(made, null, 1)}\n`) {
    problems.push(
      `${name}.json is not what dashboards.mjs makes: node deploy/grafana/dashboards.mjs`,
    );
  }
  const {panels, ...rest} = structuredClone(made);
  for (const annotation of rest.annotations.list) {
    // Prometheus' own fields; the type has no place for them
    delete annotation.expr;
    delete annotation.titleFormat;
  }
  lines.push(literal(name, `dashboard_${name}`, `Text<Omit<Dashboard, 'panels'>>`, rest));
  for (const panel of panels) {
    const id = `${name}_${panel.id}`;
    const label = `${name} / ${panel.title}`;
    const {options, ...body} = panel;
    const {custom, ...defaults} = body.fieldConfig.defaults;
    const [, , fields] = PANELS[panel.type];
    const plain = {...body, fieldConfig: {...body.fieldConfig, defaults}};
    lines.push(literal(label, `panel_${id}`, 'Text<Partial<Panel>>', plain));
    lines.push(
      literal(`${label}: options`, `options_${id}`, `Text<Partial<${panel.type}Options>>`, options),
    );
    if (custom)
      lines.push(
        literal(`${label}: fields`, `fields_${id}`, `Text<Partial<${panel.type}Fields>>`, custom),
      );
  }
}
for (const file of readdirSync(here).filter((name) => name.endsWith('.json'))) {
  if (!DASHBOARDS[file.replace('.json', '')]) problems.push(`${file} is made by nobody`);
}
const unknown = literal('self-test', 'wrong', 'Text<Partial<Panel>>', {titel: 'x'});
problems.push(...typecheck('dashboards', lines));
if (typecheck('dashboards-self-test', [...lines.slice(0, 7), unknown]).length !== 1) {
  problems.push('an unknown field was not seen');
}
for (const problem of problems) console.log(problem);
process.exit(problems.length > 0 ? 1 : 0);
