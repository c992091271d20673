// Drives the playground of a running router in a headless Chromium and keeps screenshots:
// node playground.mjs http://127.0.0.1:PORT [FOLDER]
// CHROMIUM names the browser (default: /usr/bin/chromium).
import { mkdir } from "node:fs/promises";
import path from "node:path";

import { chromium } from "playwright-core";

import { assert, check, run } from "./checks.mjs";

const url = process.argv[2] ?? process.env.FULGUR_URL;
const folder = process.argv[3] ?? "screenshots";
if (!url) {
  console.error("usage: node playground.mjs http://HOST:PORT [FOLDER]");
  process.exit(2);
}
await mkdir(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

const problems = [];

async function open({ width = 1100, height = 760, dark = false } = {}) {
  const page = await browser.newPage({
    viewport: { width, height }, colorScheme: dark ? "dark" : "light" });
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.goto(url);
  await page.locator("#dot.ready").waitFor({ state: "attached" });
  return page;
}

const shot = (page, name) => page.screenshot({ path: path.join(folder, `${name}.png`) });
const idle = (page) => page.waitForFunction(() => document.getElementById("go").textContent === "Send");

async function ask(page, text, tokens = "60") {
  await page.evaluate((value) => { document.getElementById("max_tokens").value = value; }, tokens);
  await page.fill("#input", text);
  await page.press("#input", "Enter");
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
  for (const stop of [() => page.click("#go"), () => page.keyboard.press("Escape")]) {
    await ask(page, "Tell me a very long story.", "2000");
    await page.locator(".running .meta", { hasText: "token" }).waitFor();
    await shot(page, "chat-running-dark");
    await stop();
    await idle(page);
    await page.locator(".meta", { hasText: "stopped" }).last().waitFor();
  }
  await page.close();
});

check("shows the server's error in its words", async () => {
  const page = await open();
  await page.click("#gear");
  await page.fill("#temperature", "9");
  await ask(page, "hello");
  await page.locator(".error", { hasText: "temperature" }).waitFor();
  await shot(page, "error-light");
  problems.splice(0, problems.length,
                  ...problems.filter((text) => !/status of 400/.test(text)));
  await page.close();
});

check("writes on from a beginning and takes it back", async () => {
  const page = await open({ dark: true });
  await page.click("#tab-complete");
  await page.fill("#draft", "Once upon a time there was a fox who");
  await page.evaluate(() => { document.getElementById("max_tokens").value = "50"; });
  await page.click("#write");
  await page.waitForFunction(() => document.getElementById("draft").value.length > 60);
  await page.waitForFunction(() => document.getElementById("write").textContent === "Write on");
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
    await page.evaluate(() => { document.getElementById("max_tokens").value = "20"; });
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
    const overflow = await page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0, "the page scrolls sideways");
    await shot(page, dark ? "narrow-dark" : "narrow-light");
    await page.close();
  }
});

check("logs no error of its own", async () => assert.deepEqual(problems, []));

await run();
