// Writes rendered.json: templates/*.jinja on conversations, as npm @huggingface/jinja renders them.
// Run once: npm i @huggingface/jinja && node generate.mjs > rendered.json
import {readFileSync, readdirSync} from 'node:fs';
import {createRequire} from 'node:module';
import {pathToFileURL} from 'node:url';
const resolve = createRequire(process.cwd() + '/').resolve;
const {Template} = await import(pathToFileURL(resolve('@huggingface/jinja')));

const user = (content) => ({role: 'user', content});
const assistant = (content) => ({role: 'assistant', content});
const system = (content) => ({role: 'system', content});
const call = (id, name, args) => ({id, type: 'function', function: {name, arguments: args}});
const tools = [
  {type: 'function', function: {name: 'get_weather', description: 'Weather of a "city"', parameters: {type: 'object',
    properties: {city: {type: 'string'}, unit: {type: 'string', enum: ['c', 'f']}, days: {type: 'integer'}}, required: ['city']}}},
  {type: 'function', function: {name: 'add', description: 'Adds numbers é', parameters: {type: 'object',
    properties: {terms: {type: 'array', items: {type: 'number'}}}, required: ['terms']}}}];
const conversations = {
  single: {messages: [user('Hi')]},
  system: {messages: [system('Be brief.'), user('  Hi there \n')]},
  turns: {messages: [system('S'), user('one'), assistant('<think>\nplan\n</think>\n\ntwo'), user('three'), assistant('four'), user('five\nsix')]},
  unicode: {messages: [user('你好 "quoted" \\n <|im_end|> \t é'), assistant("it's ok"), user('😀 naïve')]},
  tools: {messages: [user('Weather in Oslo?')], tools},
  calls: {messages: [user('Weather in Oslo?'), {role: 'assistant', content: '', tool_calls: [call('abc123456', 'get_weather', {city: 'Oslo', days: 2, exact: 1.5, deep: {a: [1, null, true]}})]},
    {role: 'tool', tool_call_id: 'abc123456', name: 'get_weather', content: '{"t": -3}'}, assistant('Cold.'), user('Thanks')], tools},
  parts: {messages: [user([{type: 'text', text: ' part one '}, {type: 'text', text: 'part two'}]), assistant('ok'), user([{type: 'text', text: 'more'}])]},
  'no thinking': {messages: [user('Hi')], extra: {enable_thinking: false}},
};

const out = [];
for (const file of readdirSync(new URL('templates/', import.meta.url)).sort()) {
  const template = new Template(readFileSync(new URL('templates/' + file, import.meta.url), 'utf8'));
  for (const [name, {messages, tools: used, extra}] of Object.entries(conversations)) {
    for (const add_generation_prompt of [true, false]) {
      const item = {template: file, name, messages, tools: used ?? null, extra: {...extra, add_generation_prompt}};
      try {
        item.prompt = template.render({messages, tools: used ?? null, ...item.extra, bos_token: '<s>', eos_token: '</s>'});
      } catch (fault) {
        continue;  // what a template refuses is tested by hand
      }
      // A list of parts is joined by fulgur for templates that print it as JSON or drop it.
      if (name === 'parts' && (file === 'qwen3.jinja' || item.prompt.includes('"type": "text"'))) continue;
      out.push(item);
    }
  }
}
console.log('[\n' + out.map((item) => JSON.stringify(item)).join(',\n') + '\n]');
