// The five dashboards. `node deploy/grafana/dashboards.mjs` writes their JSON beside this file;
// tests/deploy runs every query against a loaded mesh.
import {writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

import {bars, dashboard, heat, lines, matrix, query, stat} from './panels.mjs';

const RATE = '[$__rate_interval]';
const rate = (metric, labels = '', by = '') =>
  `sum${by && ` by (${by})`} (rate(${metric}{mesh="$mesh"${labels && `, ${labels}`}}${RATE}))`;
const quantiles = (metric) =>
  [0.5, 0.95, 0.99].map((q) =>
    query(`histogram_quantile(${q}, ${rate(`${metric}_bucket`, '', 'le')})`, `p${q * 100}`),
  );
const gauge = (metric, by, fold = 'sum') =>
  `${fold}${by && ` by (${by})`} (${metric}{mesh="$mesh"})`;
const recorded = (name) => `${name}{mesh="$mesh"}`;
const YES_NO = [
  {
    type: 'value',
    options: {0: {text: 'NO', color: 'red', index: 0}, 1: {text: 'yes', color: 'green', index: 1}},
  },
];
const ERRORS = `(${rate('fulgur_router_requests_total', 'status=~"5.."')} or vector(0))`;

const overview = dashboard(
  'fulgur-overview',
  'Overview',
  'Are clients served well, and does the mesh hold?',
  [
    stat(
      'Serving',
      'Every expert has a replica and there is a shard.',
      'none',
      gauge('fulgur_mesh_serving', '', 'min'),
      {mappings: YES_NO},
    ),
    stat(
      'Requests',
      'Answers a second, all statuses.',
      'reqps',
      rate('fulgur_router_requests_total'),
    ),
    stat(
      'Failed',
      'Share of answers that are a 5xx. The objective is below 0.1 %.',
      'percentunit',
      `${ERRORS} / ${rate('fulgur_router_requests_total')}`,
      {
        limits: [
          [0.001, 'orange'],
          [0.01, 'red'],
        ],
        decimals: 2,
      },
    ),
    stat(
      'First token, p95',
      "From a request's arrival. The objective is 2.5 s for 99 %.",
      's',
      quantiles('fulgur_router_first_token_seconds')[1].expr,
      {
        limits: [
          [1, 'orange'],
          [2.5, 'red'],
        ],
      },
    ),
    stat(
      'Tokens',
      'Generated tokens a second.',
      'none',
      rate('fulgur_router_generated_tokens_total'),
      {decimals: 0},
    ),
    stat(
      'Alerts',
      'Fulgur alerts that fire now.',
      'none',
      'count(ALERTS{alertname=~"Fulgur.*", alertstate="firing", mesh="$mesh"}) or vector(0)',
      {limits: [[1, 'red']]},
    ),
    lines(
      'Requests by status',
      '429: the mesh is full. 499: the client went away. 503: nobody to ask. 504: too slow.',
      'reqps',
      [query(rate('fulgur_router_requests_total', '', 'status'), '{{status}}')],
      {stack: true},
    ),
    lines(
      'First token',
      'Waiting and prompt together.',
      's',
      quantiles('fulgur_router_first_token_seconds'),
    ),
    lines(
      'Between tokens',
      'What a reader of a stream sees.',
      's',
      quantiles('fulgur_router_inter_token_seconds'),
    ),
    lines('Prompt and generated tokens', 'Prompt tokens admitted and tokens generated.', 'short', [
      query(rate('fulgur_router_prompt_tokens_total'), 'prompt'),
      query(rate('fulgur_router_generated_tokens_total'), 'generated'),
    ]),
    lines(
      'Burn rate of the error budget',
      "1 spends exactly the month's budget; 14.4 pages.",
      'none',
      [
        query(`${recorded('mesh:fulgur_request_errors:ratio_rate5m')} / 0.001`, '5 minutes'),
        query(`${recorded('mesh:fulgur_request_errors:ratio_rate1h')} / 0.001`, '1 hour'),
      ],
      {
        limits: [
          [6, 'orange'],
          [14.4, 'red'],
        ],
      },
    ),
    lines(
      'Slow share',
      'First tokens over 2.5 s and gaps over 0.1 s; the objective is 1 % of each.',
      'percentunit',
      [
        query(recorded('mesh:fulgur_first_token_slow:ratio_rate5m'), 'first token'),
        query(recorded('mesh:fulgur_inter_token_slow:ratio_rate5m'), 'between tokens'),
      ],
      {limits: [[0.01, 'red']]},
    ),
    lines('Members', 'Suspect members lost their link or their heartbeat.', 'short', [
      query(gauge('fulgur_members', 'kind, state'), '{{kind}} {{state}}'),
    ]),
    lines(
      'Busy',
      'Share of its time that a pool computes.',
      'percentunit',
      [
        query(recorded('mesh:fulgur_attention_busy:ratio_rate5m'), 'attention'),
        query(recorded('mesh:fulgur_expert_busy:ratio_rate5m'), 'experts'),
      ],
      {max: 1},
    ),
    lines(
      'Losses and repairs',
      'Members lost, sequences continued elsewhere, dispatches sent again.',
      'short',
      [
        query(`sum (increase(fulgur_members_lost_total{mesh="$mesh"}${RATE}))`, 'members lost'),
        query(
          `sum (increase(fulgur_router_resubmissions_total{mesh="$mesh"}${RATE}))`,
          'resubmissions',
        ),
        query(
          `sum (increase(fulgur_dispatch_retries_total{mesh="$mesh"}${RATE}))`,
          'dispatch retries',
        ),
      ],
    ),
  ],
);

const experts = dashboard(
  'fulgur-experts',
  'Experts',
  'Which expert is hot, who holds it, what moves.',
  [
    stat('Epoch', 'The committed placement.', 'none', gauge('fulgur_placement_epoch', '', 'max')),
    stat(
      'Replicas of every expert',
      'At least; 1 means that a death stalls requests.',
      'none',
      gauge('fulgur_placement_replicas', '', 'min'),
    ),
    stat(
      'Imbalance',
      'The busiest worker over the mean worker; 1 is even.',
      'none',
      recorded('mesh:fulgur_expert_imbalance:ratio_rate5m'),
      {
        limits: [
          [1.25, 'orange'],
          [1.5, 'red'],
        ],
        decimals: 2,
      },
    ),
    stat(
      'Workers',
      'Alive expert workers.',
      'none',
      'sum (fulgur_members{mesh="$mesh", kind="expert", state="alive"})',
    ),
    stat(
      'Weights held',
      'All replicas of all workers.',
      'bytes',
      gauge('fulgur_expert_held_bytes', ''),
    ),
    stat(
      'Moves',
      'Replicas that workers were told to load in the last hour.',
      'none',
      'sum (increase(fulgur_placement_moves_total{mesh="$mesh"}[1h]))',
      {decimals: 0},
    ),
    matrix(
      'Rows a second of each expert (layer down, expert across)',
      'A hot column or cell is a hot expert: it should have more replicas than its neighbours.',
      'none',
      rate('fulgur_expert_tokens_total', '', 'layer, expert'),
      'layer',
      'expert',
    ),
    matrix(
      'Replicas of each expert (layer down, expert across)',
      'Workers that hold it, as committed. 1: its death makes tokens wait for a load.',
      'none',
      'max by (layer, expert) (fulgur_placement_expert_replicas{mesh="$mesh"})',
      'layer',
      'expert',
      {
        steps: [
          {value: null, color: 'red'},
          {value: 1, color: 'orange'},
          {value: 2, color: 'green'},
        ],
      },
    ),
    lines('Skew of a layer', 'Its hottest expert over its mean expert.', 'none', [
      query(recorded('layer:fulgur_expert_skew:ratio_rate5m'), 'layer {{layer}}'),
    ]),
    lines(
      'Busy workers',
      'Share of time in expert products.',
      'percentunit',
      [query(recorded('member:fulgur_expert_busy:ratio_rate5m'), '{{member}}')],
      {max: 1},
    ),
    lines('Rows of a worker', 'Routed rows a second.', 'short', [
      query(rate('fulgur_expert_routed_rows_total', '', 'member'), '{{member}}'),
    ]),
    bars('Replicas held', 'By worker.', 'short', [
      query(gauge('fulgur_expert_replicas', 'member'), '{{member}}'),
    ]),
    lines('Queue', 'Dispatches waiting at a worker.', 'short', [
      query(gauge('fulgur_expert_queue_depth', 'member'), '{{member}}'),
    ]),
    lines('Placement', 'Loads ordered, and epochs committed.', 'short', [
      query(`sum (increase(fulgur_placement_moves_total{mesh="$mesh"}${RATE}))`, 'moves'),
      query(
        `sum (changes(fulgur_placement_epoch{mesh="$mesh", component="orchestrator"}${RATE}))`,
        'epochs',
      ),
    ]),
    lines(
      'Balance of the placement',
      'Slowest worker over the mean by known load, as the orchestrator planned it; 0 is unknown.',
      'none',
      [query(gauge('fulgur_placement_balance_ratio', '', 'max'), 'balance')],
    ),
    lines('Rebalances', 'Changes of placement for balance.', 'short', [
      query(`sum (increase(fulgur_rebalances_total{mesh="$mesh"}${RATE}))`, 'rebalances'),
    ]),
    lines('Slow workers', 'Workers that shards go around.', 'short', [
      query(gauge('fulgur_workers_slow', ''), 'slow'),
    ]),
  ],
);

const pool = (what, name) => `max (fulgur_pool_${what}{mesh="$mesh", pool="${name}"})`;
const mean = (part) => recorded(`mesh:fulgur_dispatch_${part}:seconds_rate5m`);
const pools = dashboard(
  'fulgur-pools',
  'Pools',
  'Which pool is the bottleneck, and what a dispatch waits for.',
  [
    stat(
      'Attention over experts',
      'Busy ratio of the two pools: above 1, add shards first; below, workers.',
      'none',
      recorded('mesh:fulgur_attention_to_expert_busy:ratio_rate5m'),
      {width: 6, decimals: 2},
    ),
    stat(
      'Attention busy',
      'Mean share of time that shards compute.',
      'percentunit',
      recorded('mesh:fulgur_attention_busy:ratio_rate5m'),
      {
        width: 6,
        limits: [
          [0.7, 'orange'],
          [0.9, 'red'],
        ],
      },
    ),
    stat(
      'Experts busy',
      'Mean share of time that workers compute.',
      'percentunit',
      recorded('mesh:fulgur_expert_busy:ratio_rate5m'),
      {
        width: 6,
        limits: [
          [0.7, 'orange'],
          [0.85, 'red'],
        ],
      },
    ),
    stat('Dispatch', "Mean time from a shard's dispatch to its answer.", 's', mean('round_trip'), {
      width: 6,
    }),
    lines(
      'Where a dispatch spends its time',
      'Queue: add workers. Compute: faster workers. The rest is the network.',
      's',
      [
        query(mean('queue'), 'queue'),
        query(mean('compute'), 'compute'),
        query(
          `${mean('round_trip')} - ${mean('queue')} - ${mean('compute')}`,
          'network and wake-ups',
        ),
      ],
      {stack: true, width: 12},
    ),
    lines(
      'Time of a shard',
      'Computing by part, and bubbles: nothing to compute until experts answered, by the kind of ' +
        'their layer. More micro-batches hide bubbles. The rest of the second had no work.',
      'percentunit',
      [
        query(
          `avg by (part) (rate(fulgur_attention_busy_seconds_total{mesh="$mesh"}${RATE}))`,
          '{{part}}',
        ),
        query(
          `avg by (kind) (rate(fulgur_pipeline_bubble_seconds_total{mesh="$mesh"}${RATE}))`,
          'bubble, {{kind}}',
        ),
      ],
      {stack: true, width: 12, max: 1},
    ),
    lines(
      'Shards',
      'Busy share of each shard.',
      'percentunit',
      [query(recorded('member:fulgur_attention_busy:ratio_rate5m'), '{{member}}')],
      {max: 1},
    ),
    lines(
      'Workers',
      'Busy share of each worker.',
      'percentunit',
      [query(recorded('member:fulgur_expert_busy:ratio_rate5m'), '{{member}}')],
      {max: 1},
    ),
    lines('Bytes between members', 'Sent, by member.', 'Bps', [
      query(rate('fulgur_transport_sent_bytes_total', '', 'member'), '{{member}}'),
    ]),
    lines('Dispatches', 'A second, by shard.', 'short', [
      query(rate('fulgur_dispatches_total', '', 'member'), '{{member}}'),
    ]),
    lines(
      'Refused and repeated',
      'Nacks of workers, dispatches sent again, routes that waited for a replica.',
      'short',
      [
        query(rate('fulgur_dispatch_nacks_total'), 'nacks'),
        query(rate('fulgur_dispatch_retries_total'), 'retries'),
        query(rate('fulgur_dispatch_parked_total'), 'parked'),
      ],
    ),
    lines('Expert workers', 'What the orchestrator wants, and what serves.', 'short', [
      query(pool('wanted_replicas', 'experts'), 'wanted'),
      query(pool('replicas', 'experts'), 'serving'),
    ]),
    lines('Attention shards', 'What the orchestrator wants, and what serves.', 'short', [
      query(pool('wanted_replicas', 'attention'), 'wanted'),
      query(pool('replicas', 'attention'), 'serving'),
    ]),
    lines('Busy as the scaling signal sees it', 'By pool.', 'percentunit', [
      query(gauge('fulgur_pool_busy_ratio', 'pool', 'max'), '{{pool}}'),
    ]),
    lines('Full queues', 'Sends refused because a bounded queue was full.', 'short', [
      query(rate('fulgur_transport_refused_busy_total', '', 'member'), '{{member}}'),
    ]),
  ],
);

const attention = dashboard(
  'fulgur-attention',
  'Attention',
  'Sequences, their state, and the batches of each shard.',
  [
    stat('Running', 'Sequences that hold state.', 'none', gauge('fulgur_requests_running', ''), {
      width: 6,
    }),
    stat(
      'Waiting',
      'Sequences queued or preempted.',
      'none',
      gauge('fulgur_requests_waiting', ''),
      {
        width: 6,
        limits: [
          [1, 'orange'],
          [64, 'red'],
        ],
      },
    ),
    stat(
      'KV in use',
      'The fullest shard.',
      'percentunit',
      gauge('fulgur_kv_usage_ratio', '', 'max'),
      {
        width: 6,
        limits: [
          [0.8, 'orange'],
          [0.95, 'red'],
        ],
      },
    ),
    stat(
      'Rows of a micro-batch',
      "Mean; more rows read each expert's weights less often.",
      'none',
      `${rate('fulgur_micro_batch_rows_total')} / ${rate('fulgur_micro_batches_total')}`,
      {width: 6, decimals: 1},
    ),
    lines('Running sequences', 'By shard.', 'short', [
      query(gauge('fulgur_requests_running', 'member'), '{{member}}'),
    ]),
    lines('Waiting sequences', 'By shard.', 'short', [
      query(gauge('fulgur_requests_waiting', 'member'), '{{member}}'),
    ]),
    lines(
      'State slots in use',
      'Share of sequences a shard can hold.',
      'percentunit',
      [
        query(
          `${gauge('fulgur_state_slots_used', 'member')} / ${gauge('fulgur_state_slots', 'member')}`,
          '{{member}}',
        ),
      ],
      {max: 1, limits: [[0.95, 'red']]},
    ),
    lines(
      'KV pages in use',
      "Share of a shard's pages.",
      'percentunit',
      [query(gauge('fulgur_kv_usage_ratio', 'member', 'max'), '{{member}}')],
      {max: 1, limits: [[0.95, 'red']]},
    ),
    lines('Generated tokens', 'A second, by shard.', 'short', [
      query(rate('fulgur_generated_tokens_total', '', 'member'), '{{member}}'),
    ]),
    lines('Micro-batches', 'Mean rows of a micro-batch, by shard.', 'short', [
      query(
        `${rate('fulgur_micro_batch_rows_total', '', 'member')} / ${rate('fulgur_micro_batches_total', '', 'member')}`,
        '{{member}}',
      ),
    ]),
    lines('Preemptions', 'Sequences moved to host memory a second.', 'short', [
      query(rate('fulgur_preemptions_total', '', 'member'), '{{member}}'),
    ]),
    lines(
      'How sequences end',
      'A second, by reason.',
      'short',
      [query(rate('fulgur_requests_finished_total', '', 'reason'), '{{reason}}')],
      {stack: true},
    ),
    lines('Memory for state', 'Set aside at start, by shard.', 'bytes', [
      query(gauge('fulgur_state_bytes', 'member'), '{{member}}'),
    ]),
  ],
);

const requests = dashboard(
  'fulgur-requests',
  'Requests',
  'What clients ask for and how long it takes.',
  [
    stat(
      'In flight',
      'Sequences admitted and not ended.',
      'none',
      gauge('fulgur_router_sequences_running', ''),
      {width: 6},
    ),
    stat(
      'Answer, p95',
      'From arrival to the end.',
      's',
      quantiles('fulgur_router_request_seconds')[1].expr,
      {width: 6},
    ),
    stat(
      'Tokens of a prompt',
      'Mean tokens of a request.',
      'none',
      `${rate('fulgur_router_prompt_tokens_total')} / ${rate('fulgur_router_requests_total')}`,
      {width: 6, decimals: 0},
    ),
    stat(
      'Tokens of an answer',
      'Mean tokens of a request.',
      'none',
      `${rate('fulgur_router_generated_tokens_total')} / ${rate('fulgur_router_requests_total')}`,
      {width: 6, decimals: 0},
    ),
    heat(
      'First token',
      'Requests a second by time to their first token.',
      's',
      rate('fulgur_router_first_token_seconds_bucket', '', 'le'),
    ),
    heat(
      'Between tokens',
      'Gaps a second by length.',
      's',
      rate('fulgur_router_inter_token_seconds_bucket', '', 'le'),
    ),
    lines(
      'Whole request',
      'From arrival to the end.',
      's',
      quantiles('fulgur_router_request_seconds'),
    ),
    lines(
      'Queue of a shard',
      'From arrival at the shard to the first micro-batch.',
      's',
      quantiles('fulgur_request_queue_seconds'),
    ),
    lines(
      'Requests',
      'A second, by interface and status.',
      'reqps',
      [query(rate('fulgur_router_requests_total', '', 'api, status'), '{{api}} {{status}}')],
      {stack: true},
    ),
    lines('In flight by router', 'By router.', 'short', [
      query(gauge('fulgur_router_sequences_running', 'member'), '{{member}}'),
    ]),
    lines('Clients that left', 'Streams cut by the client, a second.', 'short', [
      query(rate('fulgur_router_disconnects_total', '', 'member'), '{{member}}'),
    ]),
    lines('Continued elsewhere', 'Sequences a second that another shard went on with.', 'short', [
      query(rate('fulgur_router_resubmissions_total', '', 'member'), '{{member}}'),
    ]),
    lines('Shards in reach', 'Live links of a router.', 'short', [
      query(gauge('fulgur_router_shards_up', 'member'), '{{member}}'),
    ]),
  ],
);

export const DASHBOARDS = {overview, experts, pools, attention, requests};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const here = dirname(fileURLToPath(import.meta.url));
  for (const [name, content] of Object.entries(DASHBOARDS)) {
    writeFileSync(join(here, `${name}.json`), `${JSON.stringify(content, null, 1)}\n`);
  }
}
