// Drives the operations page of a running mesh in a headless Chromium: kills a worker, adds one, and
// looks for both on the page. Screenshots are kept:
// node ops_page.mjs http://127.0.0.1:ADMIN FULGUR PORT [FOLDER]
// ADMIN is the orchestrator's admin port, FULGUR the built command, PORT the API's.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";

import { Browser, fitsSideways } from "./browser.mjs";
import { assert, check, run } from "./checks.mjs";

const [, , url, fulgur, port, folder = "screenshots"] = process.argv;
if (!port) {
  console.error("usage: node ops_page.mjs http://HOST:ADMIN FULGUR PORT [FOLDER]");
  process.exit(2);
}
const execute = promisify(execFile);
const browser = await Browser.launch(folder);
const mesh = async () => (await fetch(`${url}/v1/mesh`)).json();

async function open(options) {
  const page = await browser.open(url, options);
  await page.locator("#link[data-state=live]").waitFor();
  await page.locator("#flow li").first().waitFor();
  return page;
}
const tile = (page, name, state) =>
  page.locator(`#flow li[data-name="${name}"][data-state="${state}"]`);
/** Is there and serves; on a busy host a worker may well be measured as slow. */
const up = (page, name) => tile(page, name, "alive").or(tile(page, name, "slow"));
const event = (page, kind, words) =>
  page.locator(`#log li[data-kind="${kind}"]`, { hasText: words });

async function generate() {
  const answer = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "Once upon a time", max_tokens: 48, temperature: 0 }),
  });
  assert.equal(answer.status, 200);
  return answer.json();
}

check("shows every member as the JSON has it", async () => {
  const page = await open();
  const { services, epoch } = await mesh();
  for (const { kind, name } of services)
    if (kind !== "orchestrator") await up(page, name).waitFor();
  assert.equal(await page.locator("#flow li").count(), services.length - 1);
  assert.match(await page.locator("#summary").innerText(), new RegExp(`serving[^]*${epoch}, idle`));
  await page.close();
});

check("has a cell for every expert of every layer", async () => {
  await generate();
  const page = await open();
  const { layers, experts } = await mesh();
  const canvas = page.locator("#heat-canvas");
  await page.locator("#heat-top tbody tr").first().waitFor(); // tokens have been counted
  assert.equal(await canvas.getAttribute("data-layers"), String(layers));
  assert.equal(await canvas.getAttribute("data-experts"), String(experts));
  await canvas.focus();
  await page.keyboard.press("End");
  const cell = page.locator("#heat-cell");
  await page.waitForFunction(
    (words) => document.getElementById("heat-cell").textContent.includes(words),
    `Layer ${layers - 1}, expert ${experts - 1}`,
  );
  assert.match(await cell.innerText(), /2 replicas: expert-\d, expert-\d/);
  await page.keyboard.press("Home");
  assert.match(await cell.innerText(), /Layer 0, expert 0/);
  await page.close();
});

check("a killed worker appears on the open page, and its return", async () => {
  const page = await open();
  const victim = (await mesh()).services.find(({ name }) => name === "expert-1");
  // Whoever starts it again is held back, so that it stays dead until we have seen it.
  const supervisor = Number(
    /PPid:\s+(\d+)/.exec(await readFile(`/proc/${victim.pid}/status`, "utf8"))[1],
  );
  process.kill(supervisor, "SIGSTOP");
  try {
    process.kill(victim.pid, "SIGKILL");
    await event(page, "suspect", "expert-1").waitFor();
    await event(page, "lost", "expert-1").waitFor();
    await tile(page, "expert-1", "lost").waitFor();
    await event(page, "committed", "2 workers").waitFor();
  } finally {
    process.kill(supervisor, "SIGCONT");
  }
  await up(page, "expert-1").waitFor();
  await event(page, "joined", "expert-1").nth(1).waitFor();
  await page.close();
});

check("a worker that joins appears, and leaves by a drain", async () => {
  const page = await open();
  await execute(fulgur, ["scale", "experts", "4", "--port", port]);
  await up(page, "expert-3").waitFor();
  await event(page, "joined", "expert-3").waitFor();
  await event(page, "committed", "4 workers").waitFor();
  await execute(fulgur, ["scale", "experts", "3", "--port", port]);
  await event(page, "draining", "expert-3").waitFor();
  await event(page, "left", "expert-3").waitFor();
  await page.locator('#flow li[data-name="expert-3"]').waitFor({ state: "detached" });
  assert.equal(await page.locator("#banners p").count(), 0, "all is well again");
  await page.close();
});

check("a shard's measure of workers and traffic reach the page", async () => {
  const page = await open();
  for (let round = 0; round < 4; ++round) await generate();
  await page.waitForFunction(() =>
    /computes .* a row/.test(document.getElementById("paces").textContent),
  );
  await page.waitForFunction(() => /\d×/.test(document.getElementById("paces").textContent));
  await page.close();
});

check("fits 1280 and 400 pixels, light and dark", async () => {
  for (const width of [1280, 400])
    for (const dark of [false, true]) {
      const page = await open({ width, dark });
      await generate();
      await page.locator(".uplot").nth(2).waitFor();
      await fitsSideways(page);
      await browser.shot(page, `ops-${width}-${dark ? "dark" : "light"}`, { whole: true });
      await page.close();
    }
});

check("comes back to an orchestrator that died", async () => {
  const page = await open();
  const { services } = await mesh();
  process.kill(services.find(({ kind }) => kind === "orchestrator").pid, "SIGKILL");
  await page.locator("#link[data-state=reconnecting]").waitFor();
  await page.locator("#banners", { hasText: "may be out of date" }).waitFor();
  await page.locator("#link[data-state=live]").waitFor();
  await page.waitForFunction(() => document.querySelectorAll("#banners p").length === 0);
  for (const { kind, name } of services)
    if (kind !== "orchestrator") await up(page, name).waitFor();
  browser.forgive(/ERR_|Failed to load resource/);
  await page.close();
});

check("logs no error of its own", async () => assert.deepEqual(browser.problems, []));

await run();
