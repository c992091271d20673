// The official OpenAI client against a running router: node openai.mjs http://127.0.0.1:PORT
// Environment: FULGUR_URL instead of the argument, FULGUR_API_KEY, FULGUR_MAX_BODY_BYTES (the
// router's --max-body-bytes; the check of oversized bodies sends one byte more).
import OpenAI from "openai";

import { assert, check, failure, run } from "./checks.mjs";

const url = process.argv[2] ?? process.env.FULGUR_URL;
if (!url) {
  console.error("usage: node openai.mjs http://HOST:PORT");
  process.exit(2);
}
const apiKey = process.env.FULGUR_API_KEY ?? "none";
const bodyBytesMax = Number(process.env.FULGUR_MAX_BODY_BYTES ?? 32 * 1024 * 1024);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 120_000 });

const prompt = "Once upon a time there was a fox who lived by the";
const messages = [{ role: "user", content: "Tell me a story about a fox and a river." }];
let model;

async function post(path, body) {
  const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
  const answer = await fetch(url + path, {
    method: "POST", body: text,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${apiKey}` },
  });
  return { status: answer.status, headers: answer.headers, body: await answer.json() };
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks, index = 0) =>
  chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index)
    .map((choice) => choice.text ?? choice.delta.content ?? "").join("");

const reasonsOf = (chunks, index = 0) =>
  chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index)
    .map((choice) => choice.finish_reason).filter(Boolean);

check("models: list and retrieve", async () => {
  const list = await client.models.list();
  model = list.data[0].id;
  assert.equal(list.data[0].object, "model");
  assert.equal((await client.models.retrieve(model)).id, model);
});

check("models: an unknown one is NotFoundError", async () => {
  const error = await failure(client.models.retrieve("no-such-model"));
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
});

check("completion: text, usage, finish reason", async () => {
  const answer = await client.completions.create({ model, prompt, max_tokens: 12, temperature: 0 });
  assert.equal(answer.object, "text_completion");
  assert.equal(answer.model, model);
  assert.ok(answer.choices[0].text.length > 0);
  assert.ok(["length", "stop"].includes(answer.choices[0].finish_reason));
  assert.equal(answer.usage.total_tokens,
               answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer.usage.completion_tokens <= 12);
});

check("completion: the stream is the same text", async () => {
  const request = { model, prompt, max_tokens: 24, temperature: 0 };
  const whole = await client.completions.create(request);
  const chunks = await collect(await client.completions.create({ ...request, stream: true }));
  assert.equal(textOf(chunks), whole.choices[0].text);
  assert.deepEqual(reasonsOf(chunks), [whole.choices[0].finish_reason]);
  assert.ok(chunks.length > 3, "the text came in one piece");
});

check("completion: include_usage adds one chunk with exact counts", async () => {
  const chunks = await collect(await client.completions.create({
    model, prompt, max_tokens: 7, stream: true, ignore_eos: true,
    stream_options: { include_usage: true } }));
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 7);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

check("completion: token ids and lists of prompts", async () => {
  const { body } = await post("/tokenize", { model, prompt });
  const request = { model, max_tokens: 6, temperature: 0 };
  const text = await client.completions.create({ ...request, prompt });
  const ids = await client.completions.create({ ...request, prompt: body.tokens });
  assert.equal(ids.choices[0].text, text.choices[0].text);
  const both = await client.completions.create({ ...request, prompt: [prompt, "The sea"] });
  assert.deepEqual(both.choices.map((choice) => choice.index), [0, 1]);
  assert.equal(both.choices[0].text, text.choices[0].text);
  const lists = await client.completions.create({ ...request, prompt: [body.tokens, [5, 6]] });
  assert.equal(lists.choices[0].text, text.choices[0].text);
});

check("chat: message, role, usage", async () => {
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 16, seed: 1 });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(typeof answer.choices[0].message.content, "string");
  assert.ok(answer.usage.prompt_tokens > 5);
});

check("chat: the stream is the same message", async () => {
  const request = { model, messages, max_completion_tokens: 24, temperature: 0 };
  const whole = await client.chat.completions.create(request);
  const chunks = await collect(await client.chat.completions.create({
    ...request, stream: true, stream_options: { include_usage: true } }));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
});

check("chat: the client's own stream helper", async () => {
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 12, seed: 4 });
  let text = "";
  stream.on("content", (delta) => { text += delta; });
  const final = await stream.finalChatCompletion();
  assert.equal(text, final.choices[0].message.content);
});

check("chat: content parts and system messages", async () => {
  const parts = [{ role: "system", content: "You tell stories." },
                 { role: "user", content: [{ type: "text", text: messages[0].content }] }];
  const plain = [{ role: "system", content: "You tell stories." }, messages[0]];
  const request = { model, max_tokens: 8, temperature: 0 };
  const a = await client.chat.completions.create({ ...request, messages: parts });
  const b = await client.chat.completions.create({ ...request, messages: plain });
  assert.equal(a.choices[0].message.content, b.choices[0].message.content);
  assert.equal(a.usage.prompt_tokens, b.usage.prompt_tokens);
});

check("chat: what a user types is no control token", async () => {
  const honest = await post("/tokenize", { messages });
  const sly = await post("/tokenize", {
    messages: [{ role: "user", content: messages[0].content + "<end_of_sentence>" }] });
  assert.ok(sly.body.count > honest.body.count + 1, "the marker became one token");
});

check("logprobs: chat form", async () => {
  const answer = await client.chat.completions.create({
    model, messages, max_tokens: 5, temperature: 0, logprobs: true, top_logprobs: 3 });
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.length, answer.usage.completion_tokens);
  for (const token of content) {
    assert.equal(token.top_logprobs.length, 3);
    assert.ok(token.logprob <= 0);
    // Greedy: the sampled token is the likeliest.
    assert.equal(token.top_logprobs[0].logprob, token.logprob);
    assert.equal(new TextDecoder().decode(Uint8Array.from(token.bytes)), token.token);
  }
});

check("logprobs: completion form, also streamed", async () => {
  const request = { model, prompt, max_tokens: 5, temperature: 0, logprobs: 2 };
  const { logprobs, text } = (await client.completions.create(request)).choices[0];
  assert.equal(logprobs.tokens.join(""), text);
  assert.equal(logprobs.tokens.length, logprobs.token_logprobs.length);
  assert.equal(logprobs.text_offset[0], 0);
  const chunks = await collect(await client.completions.create({ ...request, stream: true }));
  const streamed = chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.token_logprobs ?? []);
  assert.deepEqual(streamed, logprobs.token_logprobs);
});

check("echo: the prompt comes first", async () => {
  const answer = await client.completions.create({
    model, prompt, max_tokens: 4, temperature: 0, echo: true });
  assert.ok(answer.choices[0].text.startsWith(prompt));
});

check("n: choices have their index and differ", async () => {
  const request = { model, prompt, max_tokens: 16, n: 3, seed: 11, temperature: 1 };
  const answer = await client.completions.create(request);
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok(new Set(answer.choices.map((choice) => choice.text)).size > 1);
  const chunks = await collect(await client.completions.create({ ...request, stream: true }));
  for (const index of [0, 1, 2]) {
    assert.equal(textOf(chunks, index), answer.choices[index].text);
    assert.equal(reasonsOf(chunks, index).length, 1);
  }
});

check("seed: equal seeds give equal text, others differ", async () => {
  const text = async (seed) => (await client.completions.create({
    model, prompt, max_tokens: 24, temperature: 1, seed })).choices[0].text;
  const [a, b, c] = await Promise.all([text(7), text(7), text(8)]);
  assert.equal(a, b);
  assert.notEqual(a, c);
});

check("stop: the text ends before the string, streamed or not", async () => {
  const request = { model, prompt, max_tokens: 64, temperature: 0, ignore_eos: true };
  const { text } = (await client.completions.create(request)).choices[0];
  const stop = text.slice(10, 14);
  const expected = text.slice(0, text.indexOf(stop));
  const cut = await client.completions.create({ ...request, stop: ["\u0000never", stop] });
  assert.equal(cut.choices[0].text, expected);
  assert.equal(cut.choices[0].finish_reason, "stop");
  const chunks = await collect(await client.completions.create({ ...request, stop, stream: true }));
  assert.equal(textOf(chunks), expected);
});

check("stop_token_ids, min_tokens, return_token_ids", async () => {
  const request = { model, prompt, max_tokens: 8, temperature: 0, return_token_ids: true,
                    ignore_eos: true };
  const free = (await client.completions.create(request)).choices[0];
  assert.equal(free.token_ids.length, 8);
  const stopped = (await client.completions.create({
    ...request, stop_token_ids: [free.token_ids[2]] })).choices[0];
  const at = free.token_ids.indexOf(free.token_ids[2]);
  assert.deepEqual(stopped.token_ids, free.token_ids.slice(0, at + 1));
  assert.equal(stopped.finish_reason, "stop");
});

check("logit_bias: a banned token is not generated", async () => {
  const request = { model, prompt, max_tokens: 1, temperature: 0, return_token_ids: true };
  const [id] = (await client.completions.create(request)).choices[0].token_ids;
  const [other] = (await client.completions.create({
    ...request, logit_bias: { [id]: -100 } })).choices[0].token_ids;
  assert.notEqual(other, id);
});

check("errors: BadRequestError names the field", async () => {
  const wrong = [[{ temperature: 5 }, "temperature"], [{ max_tokens: -1 }, "max_tokens"],
                 [{ n: "two" }, "n"], [{ stop: [1] }, "stop"], [{ top_p: 2 }, "top_p"],
                 [{ logit_bias: { x: 1 } }, "logit_bias"], [{ seed: 1.5 }, "seed"]];
  for (const [fields, param] of wrong) {
    const error = await failure(client.completions.create({ model, prompt, ...fields }));
    assert.ok(error instanceof OpenAI.BadRequestError, param);
    assert.equal(error.param, param);
    assert.equal(error.type, "invalid_request_error");
  }
  const chat = await failure(client.chat.completions.create({
    model, messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] }));
  assert.equal(chat.param, "messages[0].content[0].type");
});

check("errors: an unknown model is NotFoundError", async () => {
  const error = await failure(client.chat.completions.create({ model: "gpt-9", messages }));
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
  assert.equal(error.param, "model");
});

check("errors: a prompt beyond the context", async () => {
  const error = await failure(client.completions.create({
    model, prompt: [5], max_tokens: 2_000_000_000 }));
  assert.equal(error.status, 400);
  assert.equal(error.code, "context_length_exceeded");
});

check("errors: malformed JSON, invalid UTF-8, no object", async () => {
  for (const body of ["{", "[]", '{"prompt": "\\ud800"}',
                      Uint8Array.from([0x7b, 0x22, 0x70, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d])]) {
    const answer = await post("/v1/completions", body);
    assert.equal(answer.status, 400);
    assert.equal(answer.body.error.type, "invalid_request_error");
  }
});

check("errors: an oversized body is 413", async () => {
  const error = await failure(client.completions.create({
    model, prompt: "x".repeat(bodyBytesMax + 1) }));
  assert.equal(error.status, 413);
});

check("errors: unknown fields are ignored", async () => {
  const answer = await client.completions.create({
    model, prompt, max_tokens: 1, wombat: { deep: [1, 2] }, user: "me" });
  assert.equal(answer.choices.length, 1);
});

check("errors: unknown paths and methods", async () => {
  assert.equal((await post("/v1/wombats", {})).status, 404);
  assert.equal((await post("/v1/models", {})).status, 405);
});

check("abort: a stream can be left, the server goes on", async () => {
  const stream = await client.chat.completions.create({
    model, messages, max_tokens: 5000, ignore_eos: true, stream: true });
  let seen = 0;
  for await (const chunk of stream) {
    seen += chunk.choices.length;
    if (seen >= 3) break;  // leaving the loop aborts the request
  }
  assert.ok(seen >= 3);
  const answer = await client.completions.create({ model, prompt, max_tokens: 2 });
  assert.ok(answer.usage.completion_tokens >= 1);
});

check("concurrency: sixteen streams, each its own text", async () => {
  const texts = (many) => Promise.all(many.map(async (seed) => textOf(await collect(
    await client.completions.create({ model, prompt, max_tokens: 12, temperature: 1, seed,
                                      stream: true })))));
  const seeds = [...Array(16).keys()];
  const together = await texts(seeds);
  for (const seed of [0, 9]) assert.equal((await texts([seed]))[0], together[seed]);
});

check("tokenize and detokenize are inverse", async () => {
  const text = "The fox — la renarde — 狐 🦊 said:\n\t\"12345\"";
  const { body } = await post("/tokenize", { model, prompt: text, return_token_strs: true });
  assert.equal(body.count, body.tokens.length);
  assert.equal(body.token_strs.length, body.tokens.length);
  assert.equal((await post("/detokenize", { model, tokens: body.tokens })).body.prompt, text);
  assert.equal((await post("/detokenize", { tokens: [-1] })).status, 400);
});

check("health, readiness, metrics", async () => {
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
  assert.equal((await fetch(`${url}/readyz`)).status, 200);
  const metrics = await (await fetch(`${url}/metrics`)).text();
  assert.match(metrics, /^fulgur_router_generated_tokens_total [1-9]/m);
  assert.match(metrics, /^vllm:num_requests_running/m);
});

await run();
