// Drives the playground of a running router in a headless Chromium and keeps screenshots:
// node playground.mjs http://127.0.0.1:PORT [FOLDER]
// CHROMIUM names the browser (default: /usr/bin/chromium).
import { Browser, fitsSideways } from "./browser.mjs";
import { assert, check, run } from "./checks.mjs";

const url = process.argv[2] ?? process.env.FULGUR_URL;
const folder = process.argv[3] ?? "screenshots";
if (!url) {
  console.error("usage: node playground.mjs http://HOST:PORT [FOLDER]");
  process.exit(2);
}
const browser = await Browser.launch(folder);

async function open(options = {}) {
  const page = await browser.open(url, { width: 1100, height: 760, ...options });
  page.setDefaultTimeout(120_000);
  await page.locator("#dot.ready").waitFor({ state: "attached" });
  return page;
}

/** Answers end at their token limit only, however the story goes. */
const endless = (page) => page.route("**/completions", (route) => route.continue({
  postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }));

const shot = (page, name) => browser.shot(page, `playground-${name}`);
const set = (page, name, value) => page.evaluate(
  ([id, text]) => { document.getElementById(id).value = text; }, [name, value]);
const says = (page, id, text) => page.waitForFunction(
  ([place, words]) => document.getElementById(place).textContent === words, [id, text]);
const idle = (page) => says(page, "go", "Send");

async function ask(page, text, tokens = "60") {
  await set(page, "max_tokens", tokens);
  await page.fill("#input", text);
  await page.press("#input", "Enter");
}

/** What the API answers to what the page asks, in one piece. */
async function complete(path, request) {
  const answer = await fetch(url + path, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ temperature: 0.8, seed: 7, ignore_eos: true, ...request }) });
  const choice = (await answer.json()).choices[0];
  return choice.message?.content ?? choice.text;
}

check("welcomes and names the model", async () => {
  const page = await open();
  await page.waitForFunction(() => !/connecting/.test(document.getElementById("model").textContent));
  await shot(page, "welcome-light");
  await page.close();
});

check("chats with a live rate and remembers the conversation", async () => {
  const page = await open();
  await ask(page, "Tell me a story about a fox and a river.");
  await page.locator(".meta", { hasText: "tok/s" }).first().waitFor();
  await idle(page);
  const answer = await page.locator(".model-turn .text").first().textContent();
  assert.ok(answer.length > 20, `the answer is ${JSON.stringify(answer)}`);
  await ask(page, "And then?", "30");
  await page.locator(".model-turn").nth(1).waitFor();
  await idle(page);
  await shot(page, "chat-light");
  await page.close();
});

check("stops on request and by Escape", async () => {
  const page = await open({ dark: true });
  await endless(page);
  const stops = [() => page.click("#go"), () => page.keyboard.press("Escape")];
  for (const [turn, stop] of stops.entries()) {
    await ask(page, "Tell me a very long story.", "60000");
    await page.locator(".running .meta", { hasText: /\d{4} tokens/ }).waitFor();
    await shot(page, "chat-running-dark");
    await stop();
    await idle(page);
    await page.locator(".model-turn .meta", { hasText: "stopped" }).nth(turn).waitFor();
  }
  await page.click("#clear");
  assert.equal(await page.locator(".turn").count(), 0);
  await page.click(".ideas button");
  await page.locator(".running .meta", { hasText: "tokens" }).waitFor();
  await page.keyboard.press("Escape");
  await idle(page);
  await page.click("#tab-complete");
  await page.fill("#draft", "The old mill");
  await page.click("#write");
  await page.locator("#draft-meta", { hasText: /\d{4} tokens/ }).waitFor();
  await page.click("#write");
  await page.locator("#draft-meta", { hasText: "stopped" }).waitFor();
  await page.close();
});

check("shows a long answer whole, and draws it once a frame at most", async () => {
  const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
  await endless(page);
  await set(page, "seed", "7");
  await page.evaluate(() => {
    window.counts = { frames: 0, updates: 0 };
    const frame = () => { window.counts.frames += 1; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
    const inAnswer = ({ target }) =>
      (target instanceof Text ? target.parentElement : target)?.closest(".model-turn .text");
    new MutationObserver((changes) => { window.counts.updates += changes.some(inAnswer); })
      .observe(document.getElementById("turns"),
               { subtree: true, childList: true, characterData: true });
  });
  const content = "Tell me a story about a fox and a river.";
  await ask(page, content, "3000");
  await page.locator(".running .meta", { hasText: "tokens" }).waitFor();
  await idle(page);
  const { frames, updates } = await page.evaluate(() => window.counts);
  assert.ok(updates <= frames + 1, `3000 tokens: ${updates} updates in ${frames} frames`);
  const meta = await page.locator(".model-turn .meta").textContent();
  assert.match(meta, /^3000 tokens.*token limit reached/);
  const answer = await complete("/v1/chat/completions",
                                { messages: [{ role: "user", content }], max_tokens: 3000 });
  assert.equal(await page.locator(".model-turn .text").textContent(), answer);
  await page.getByText("copy", { exact: true }).click();
  await page.getByText("copied", { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), answer);
  const below = await page.evaluate(() => {
    const place = document.getElementById("scroll");
    return place.scrollHeight - place.scrollTop - place.clientHeight;
  });
  assert.ok(below < 2, `${below} pixels are below the window's end`);
  await shot(page, "long-light");
  await page.close();
});

check("ends where there are no frames, as in a hidden tab", async () => {
  const page = await open();
  await endless(page);
  await page.evaluate(() => { window.requestAnimationFrame = () => 1; });
  await set(page, "seed", "7");
  await ask(page, "hello", "200");
  await page.locator(".model-turn .meta", { hasText: "200 tokens" }).waitFor();
  await idle(page);
  assert.equal(await page.locator(".model-turn .text").textContent(),
               await complete("/v1/chat/completions", {
                 messages: [{ role: "user", content: "hello" }], max_tokens: 200 }));
  await page.click("#tab-complete");
  await page.fill("#draft", "The old mill");
  await page.click("#write");
  await page.locator("#draft-meta", { hasText: "200 tokens" }).waitFor();
  await says(page, "write", "Write on");
  assert.equal(await page.inputValue("#draft"), "The old mill" +
               await complete("/v1/completions", { prompt: "The old mill", max_tokens: 200 }));
  await page.close();
});

check("shows the server's error in its words", async () => {
  const page = await open();
  await page.click("#gear");
  await page.fill("#temperature", "9");
  await ask(page, "hello");
  await page.locator(".error", { hasText: "temperature" }).waitFor();
  await shot(page, "error-light");
  browser.forgive(/status of 400/);
  await page.close();
});

check("writes on from a beginning and takes it back", async () => {
  const page = await open({ dark: true });
  await page.click("#tab-complete");
  await page.fill("#draft", "Once upon a time there was a fox who");
  await set(page, "max_tokens", "50");
  await page.click("#write");
  await page.waitForFunction(() => document.getElementById("draft").value.length > 60);
  await says(page, "write", "Write on");
  await shot(page, "complete-dark");
  await page.click("#undo");
  assert.equal(await page.inputValue("#draft"), "Once upon a time there was a fox who");
  await page.close();
});

check("an equal seed writes the same again", async () => {
  const page = await open();
  await page.click("#gear");
  await page.fill("#seed", "42");
  await page.click("#tab-complete");
  const texts = [];
  for (let round = 0; round < 2; ++round) {
    await page.fill("#draft", "The old mill");
    await set(page, "max_tokens", "20");
    await page.click("#write");
    await page.waitForFunction(() => document.getElementById("write").textContent === "Write on" &&
                                     document.getElementById("draft").value !== "The old mill");
    texts.push(await page.inputValue("#draft"));
  }
  assert.equal(texts[0], texts[1]);
  await page.close();
});

check("fits 400 pixels in both colour schemes", async () => {
  for (const dark of [false, true]) {
    const page = await open({ width: 400, height: 780, dark });
    await page.click("#gear");
    await ask(page, "Tell me a story about a fox and a river.");
    await page.locator(".meta", { hasText: "tok/s" }).first().waitFor();
    await idle(page);
    await fitsSideways(page);
    await shot(page, dark ? "narrow-dark" : "narrow-light");
    await page.close();
  }
});

check("logs no error of its own", async () => assert.deepEqual(browser.problems, []));

await run();
