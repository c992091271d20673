// Panels and dashboards as Grafana's JSON model, from as little as a reader needs to know: a title,
// a unit, queries. Every panel says in its description what to conclude from it.

const DATASOURCE = {type: 'prometheus', uid: '${datasource}'};

/** One query; `legend` names its series by their labels. */
export const query = (expr, legend = '', more = {}) => ({expr, legend, ...more});

const target = ({expr, legend, ...more}, at) => ({
  refId: String.fromCharCode(65 + at),
  datasource: DATASOURCE,
  editorMode: 'code',
  expr,
  legendFormat: legend || '__auto',
  range: !more.instant,
  instant: Boolean(more.instant),
  format: more.format ?? 'time_series',
});

const base = (type, title, description, width, height, queries) => ({
  type,
  title,
  description,
  datasource: DATASOURCE,
  size: {w: width, h: height},
  targets: queries.map(target),
});

const STEPS = {mode: 'absolute', steps: [{color: 'green', value: null}]};
const above = (...pairs) => ({
  mode: 'absolute',
  steps: [{color: 'green', value: null}, ...pairs.map(([value, color]) => ({color, value}))],
});

/** Lines over time. `stack`: the sum has a meaning; `max`: the axis ends there. */
export function lines(
  title,
  description,
  unit,
  queries,
  {width = 8, stack = false, max, limits} = {},
) {
  return {
    ...base('timeseries', title, description, width, 8, queries),
    fieldConfig: {
      defaults: {
        unit,
        min: 0,
        ...(max === undefined ? {} : {max}),
        color: {mode: 'palette-classic'},
        thresholds: limits ? above(...limits) : STEPS,
        custom: {
          drawStyle: 'line',
          lineInterpolation: 'linear',
          lineWidth: 1,
          fillOpacity: stack ? 30 : 8,
          showPoints: 'never',
          spanNulls: false,
          stacking: {mode: stack ? 'normal' : 'none', group: 'A'},
          thresholdsStyle: {mode: limits ? 'dashed' : 'off'},
        },
      },
      overrides: [],
    },
    options: {
      legend: {displayMode: 'list', placement: 'bottom', showLegend: true, calcs: []},
      tooltip: {mode: 'multi', sort: 'desc'},
    },
  };
}

/** One number now. `limits`: [[value, colour]…] from which on it is coloured. */
export function stat(
  title,
  description,
  unit,
  expr,
  {width = 4, limits = [], mappings = [], decimals} = {},
) {
  return {
    ...base('stat', title, description, width, 4, [query(expr, title)]),
    fieldConfig: {
      defaults: {
        unit,
        ...(decimals === undefined ? {} : {decimals}),
        mappings,
        color: {mode: 'thresholds'},
        thresholds: above(...limits),
      },
      overrides: [],
    },
    options: {
      reduceOptions: {values: false, calcs: ['lastNotNull'], fields: ''},
      graphMode: 'area',
      colorMode: 'value',
      justifyMode: 'auto',
      orientation: 'auto',
      textMode: 'auto',
      wideLayout: true,
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  };
}

/** Bars of what is now, one a series. */
export function bars(title, description, unit, queries, {width = 8, max, limits = []} = {}) {
  return {
    ...base(
      'bargauge',
      title,
      description,
      width,
      8,
      queries.map((q) => ({...q, instant: true})),
    ),
    fieldConfig: {
      defaults: {
        unit,
        min: 0,
        ...(max === undefined ? {} : {max}),
        color: {mode: 'thresholds'},
        thresholds: above(...limits),
      },
      overrides: [],
    },
    options: {
      reduceOptions: {values: false, calcs: ['lastNotNull'], fields: ''},
      orientation: 'horizontal',
      displayMode: 'basic',
      valueMode: 'color',
      showUnfilled: true,
      namePlacement: 'auto',
      sizing: 'auto',
      minVizWidth: 8,
      minVizHeight: 16,
      maxVizHeight: 300,
      legend: {displayMode: 'list', placement: 'bottom', showLegend: false, calcs: []},
    },
  };
}

/** A table with one coloured cell for each pair of two labels. */
export function matrix(
  title,
  description,
  unit,
  expr,
  rowLabel,
  columnLabel,
  {width = 24, height = 14, steps} = {},
) {
  return {
    ...base('table', title, description, width, height, [
      query(expr, '', {instant: true, format: 'table'}),
    ]),
    fieldConfig: {
      defaults: {
        unit,
        decimals: 1,
        color: {mode: steps ? 'thresholds' : 'continuous-YlRd'},
        thresholds: steps ? {mode: 'absolute', steps} : STEPS,
        custom: {
          align: 'center',
          minWidth: 44,
          cellOptions: {type: 'color-background', mode: 'gradient'},
          inspect: false,
        },
      },
      overrides: [
        {
          matcher: {id: 'byName', options: `${rowLabel}\\${columnLabel}`},
          properties: [
            {id: 'custom.cellOptions', value: {type: 'auto'}},
            {id: 'unit', value: 'none'},
          ],
        },
      ],
    },
    options: {showHeader: true, cellHeight: 'sm'},
    transformations: [
      {
        id: 'groupingToMatrix',
        options: {
          rowField: rowLabel,
          columnField: columnLabel,
          valueField: 'Value',
          emptyValue: 'zero',
        },
      },
    ],
  };
}

/** A histogram's buckets over time. */
export function heat(title, description, unit, expr, {width = 12} = {}) {
  return {
    ...base('heatmap', title, description, width, 9, [query(expr, '{{le}}', {format: 'heatmap'})]),
    fieldConfig: {defaults: {custom: {scaleDistribution: {type: 'linear'}}}, overrides: []},
    options: {
      calculate: false,
      cellGap: 1,
      cellValues: {unit: 'short'},
      color: {
        mode: 'scheme',
        scheme: 'Turbo',
        steps: 64,
        reverse: false,
        exponent: 0.5,
        fill: 'dark-orange',
        scale: 'exponential',
      },
      exemplars: {color: 'rgba(255,0,255,0.7)'},
      filterValues: {le: 1e-9},
      legend: {show: true},
      rowsFrame: {layout: 'auto'},
      showValue: 'never',
      tooltip: {mode: 'single', yHistogram: false, showColorScale: false},
      yAxis: {axisPlacement: 'left', reverse: false, unit},
    },
  };
}

/** Places panels left to right, top to bottom, and numbers them. */
function placed(panels) {
  let x = 0;
  let y = 0;
  let tallest = 0;
  return panels.map(({size, ...panel}, at) => {
    if (x + size.w > 24) {
      x = 0;
      y += tallest;
      tallest = 0;
    }
    const gridPos = {x, y, w: size.w, h: size.h};
    x += size.w;
    tallest = Math.max(tallest, size.h);
    return {id: at + 1, gridPos, ...panel};
  });
}

const hidden = {multi: false, includeAll: false, skipUrlSync: false, hide: 0};

export function dashboard(uid, title, description, panels) {
  return {
    uid,
    title: `Fulgur / ${title}`,
    description,
    tags: ['fulgur'],
    schemaVersion: 39,
    version: 1,
    editable: true,
    graphTooltip: 1,
    refresh: '30s',
    timezone: 'browser',
    time: {from: 'now-1h', to: 'now'},
    timepicker: {},
    annotations: {
      list: [
        {
          name: 'Placement epochs',
          enable: true,
          hide: false,
          iconColor: 'purple',
          datasource: DATASOURCE,
          expr: 'changes(fulgur_placement_epoch{mesh="$mesh", component="orchestrator"}[1m]) > 0',
          titleFormat: 'new placement epoch',
        },
      ],
    },
    links: [
      {
        title: 'Fulgur',
        type: 'dashboards',
        tags: ['fulgur'],
        asDropdown: false,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
        icon: 'external link',
        tooltip: '',
        url: '',
      },
    ],
    templating: {
      list: [
        {
          name: 'datasource',
          type: 'datasource',
          label: 'Prometheus',
          query: 'prometheus',
          regex: '',
          refresh: 1,
          options: [],
          ...hidden,
        },
        {
          name: 'mesh',
          type: 'query',
          label: 'Mesh',
          datasource: DATASOURCE,
          refresh: 2,
          sort: 1,
          query: {query: 'label_values(fulgur_mesh_serving, mesh)', refId: 'mesh'},
          regex: '',
          options: [],
          ...hidden,
        },
      ],
    },
    panels: placed(panels),
  };
}
