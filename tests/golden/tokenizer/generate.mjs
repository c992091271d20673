// Writes variants.json: fulgur-tiny's tokenizer with parts exchanged, and the ids that Hugging
// Face's own library gives. Run once: npm i tokenizers && node generate.mjs > variants.json
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
const {Tokenizer} = createRequire(process.cwd() + '/')('tokenizers');

const base = JSON.parse(readFileSync(new URL('../../../models/fulgur-tiny/tokenizer.json', import.meta.url)));
const split = base.pre_tokenizer.pretokenizers[0];
const byteLevel = (add_prefix_space, use_regex) =>
    ({type: 'ByteLevel', add_prefix_space, trim_offsets: true, use_regex});
const sequence = (...pretokenizers) => ({type: 'Sequence', pretokenizers});
const onDigits = (behavior, invert = false) =>
    sequence({type: 'Split', pattern: {Regex: '\\p{N}'}, behavior, invert}, byteLevel(false, false));
const added = (id, content, flags = {}) => ({id, content, single_word: false, lstrip: false,
  rstrip: false, normalized: false, special: true, ...flags});
const cls = '<begin_of_document>', sep = '<end_of_document>';

const variants = {
  'gpt2 regex': {pre_tokenizer: byteLevel(false, true)},
  'prefix space': {pre_tokenizer: byteLevel(true, true)},
  'prefix space without regex': {pre_tokenizer: byteLevel(true, false)},
  'split then prefix space': {pre_tokenizer: sequence(split, byteLevel(true, false))},
  'isolated': {pre_tokenizer: onDigits('Isolated')},
  'removed': {pre_tokenizer: onDigits('Removed')},
  'merged with previous': {pre_tokenizer: onDigits('MergedWithPrevious')},
  'merged with next': {pre_tokenizer: onDigits('MergedWithNext')},
  'contiguous': {pre_tokenizer: onDigits('Contiguous')},
  'inverted contiguous': {pre_tokenizer: onDigits('Contiguous', true)},
  'inverted removed': {pre_tokenizer: onDigits('Removed', true)},
  'string pattern': {pre_tokenizer: sequence({type: 'Split', pattern: {String: 'e.'},
    behavior: 'Isolated', invert: false}, byteLevel(false, true))},
  'digits': {pre_tokenizer: sequence({type: 'Digits', individual_digits: true}, byteLevel(false, true))},
  'digit groups': {pre_tokenizer: sequence({type: 'Digits', individual_digits: false}, byteLevel(false, true))},
  'three splits': {pre_tokenizer: sequence(
      {type: 'Split', pattern: {Regex: '\\p{N}{1,3}'}, behavior: 'Isolated', invert: false},
      {type: 'Split', pattern: {Regex: '[一-龥぀-ゟ゠-ヿ]+'}, behavior: 'Isolated', invert: false},
      {type: 'Split', pattern: {Regex: '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'},
        behavior: 'Isolated', invert: false}, byteLevel(false, false))},
  'nfc': {normalizer: {type: 'NFC'}},
  'nfkc sequence': {normalizer: {type: 'Sequence', normalizers: [{type: 'NFD'}, {type: 'NFKC'}]}},
  'ignore merges': {model: {ignore_merges: true}},
  'string merges': {model: {merges: base.model.merges.map((m) => m.join(' '))}},
  'added tokens': {added_tokens: [...base.added_tokens, added(4096, '<think>', {special: false}),
    added(4097, '<think>deep', {special: false}), added(4098, 'word', {special: false, single_word: true}),
    added(4099, '[L]', {lstrip: true}), added(4100, '[R]', {rstrip: true}),
    added(4101, '[B]', {lstrip: true, rstrip: true, single_word: true})]},
  'normalized added tokens': {normalizer: {type: 'NFC'}, added_tokens: [...base.added_tokens,
    added(4096, 'café', {special: false, normalized: true}), added(4097, '<n>', {normalized: true})]},
  'template': {post_processor: {type: 'TemplateProcessing',
    single: [{SpecialToken: {id: cls, type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}, {SpecialToken: {id: sep, type_id: 0}}],
    pair: [{Sequence: {id: 'A', type_id: 0}}, {Sequence: {id: 'B', type_id: 1}}],
    special_tokens: {[cls]: {id: cls, ids: [0], tokens: [cls]}, [sep]: {id: sep, ids: [1], tokens: [sep]}}}},
  'roberta': {post_processor: {type: 'RobertaProcessing', sep: [sep, 1], cls: [cls, 0],
    trim_offsets: true, add_prefix_space: false}},
};

const texts = ['Hello, world! 12 345 6789', ' leading and trailing  ', 'a1b22c333', '1', '12', 'x', '  ',
  'see the end.every e.g. here', '你好 世界 123かな カナ', "It's we'LL they'RE \n\n\t x  y\r\n z", 'cafe\u0301 café ① ﬁ',
  '<think>deep thought</think> <think> word words sword a-word word.', 'x  [L]  y  [R]  z  [B]  w[B] [R][L]  [R]',
  '<end_of_sentence>a<n> b\u0338<n>\u0338', 'a\u180eb\u0085c\u00a0d \u2028 e', '\u200d[B] word\u0301 _word',
  'ſ\'ſ \'S K\'K', 'Ǆ ǅ ª º ⅷ Ⅷ ² ½ ٣'];

// A splitmix-style generator keeps the random texts the same on every run.
let state = 7n;
const next = (bound) => {
  state = (state * 6364136223846793005n + 1442695040888963407n) & ((1n << 64n) - 1n);
  return Number((state >> 33n) % BigInt(bound));
};
const alphabet = [' ', '  ', '\n', '\r\n', '\t', "'s", "'LL", '1', '42', '<', '>', '\u00a0', '\u0301', 'e', 'A', '/',
  'the', 'ing', 'É', '你', '好', '😀', '👨‍👩‍👧', 'ß', 'İ', '\u3000', '\u180e', '…', '_', 'ال', 'ไ', 'ि', '가', '\u1112\u1161'];
for (let i = 0; i < 25; ++i) {
  let text = '';
  for (let n = next(30); n >= 0; --n) text += alphabet[next(alphabet.length)];
  texts.push(text);
}

const out = [];
for (const [name, patch] of Object.entries(variants)) {
  const json = {...base, ...patch, model: {...base.model, ...(patch.model ?? {})}};
  const tokenizer = Tokenizer.fromString(JSON.stringify(json));
  const cases = [];
  for (const text of texts) {
    const plain = (await tokenizer.encode(text, null, {addSpecialTokens: false})).getIds();
    const all = (await tokenizer.encode(text, null, {addSpecialTokens: true})).getIds();
    const item = {text, ids: plain};
    if (JSON.stringify(all) !== JSON.stringify(plain)) item.with_special = all;
    item.decoded = await tokenizer.decode(plain, true);
    cases.push(item);
  }
  const stored = {...patch};
  if (name === 'string merges') stored.model = {string_merges: true};  // the test rewrites them itself
  out.push({name, patch: stored, cases});
}
console.log('[\n' + out.map((v) => `{"name": ${JSON.stringify(v.name)}, "patch": ${JSON.stringify(v.patch)}, "cases": [\n` +
    v.cases.map((c) => JSON.stringify(c)).join(',\n') + ']}').join(',\n') + '\n]');
