// The operations page with meshes that are made up, in a headless Chromium: MiniMax-M1's size, hostile
// names, every state, lost connections. node ops_synthetic.mjs SERVICES/ORCHESTRATOR/OPS [FOLDER]
import { Browser, fitsSideways } from "./browser.mjs";
import { assert, check, run } from "./checks.mjs";
import { SyntheticMesh, member } from "./synthetic_mesh.mjs";

const [, , files, folder = "screenshots"] = process.argv;
if (!files) {
  console.error("usage: node ops_synthetic.mjs FOLDER_OF_THE_PAGE [FOLDER]");
  process.exit(2);
}
const browser = await Browser.launch(folder);
const kSmall = { layers: 4, experts: 8, workers: 3, shards: 2, routers: 1 };
const kM1 = {};

/** A check with a mesh and its page. */
function checkPage(name, size, body, options) {
  check(name, async () => {
    const mesh = await new SyntheticMesh(size).serve(files);
    const page = await browser.open(mesh.url, options);
    try {
      await page.locator("#link[data-state=live]").waitFor();
      await page.locator("#flow li").first().waitFor();
      await body(page, mesh);
    } finally {
      await page.close();
      await mesh.stop();
    }
  });
}
const text = (page, selector) => page.locator(selector).innerText();
const until = (page, selector, words) =>
  page.locator(selector, { hasText: words }).first().waitFor();

/** The page has been laid out and drawn as it is now. */
const drawn = (page) =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));

/** Ratio of WCAG 2 between two colours as "#rrggbb". */
function contrast(a, b) {
  const light = (hex) => {
    const [r, g, b2] = [1, 3, 5]
      .map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b2;
  };
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

check("colours of text reach AA in both schemes", async () => {
  const mesh = await new SyntheticMesh(kSmall).serve(files);
  for (const dark of [false, true]) {
    const page = await browser.open(mesh.url, { dark });
    const tokens = await page.evaluate(() =>
      Object.fromEntries(
        [
          "page",
          "card",
          "sunk",
          "ink",
          "soft",
          "accent",
          "focus",
          "good",
          "warn",
          "bad",
          "warn-page",
          "bad-page",
          "line-1",
          "line-2",
        ].map((name) => [
          name,
          getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),
        ]),
      ),
    );
    const pairs = [
      ["ink", "page"],
      ["ink", "card"],
      ["soft", "page"],
      ["soft", "card"],
      ["soft", "sunk"],
      ["accent", "card"],
      ["accent", "page"],
      ["good", "page"],
      ["good", "card"],
      ["warn", "page"],
      ["warn", "card"],
      ["warn", "warn-page"],
      ["bad", "card"],
      ["bad", "bad-page"],
      ["focus", "page"],
      ["focus", "card"],
    ];
    for (const [a, b] of pairs)
      assert.ok(
        contrast(tokens[a], tokens[b]) >= 4.5,
        `${a} on ${b}, ${dark ? "dark" : "light"}: ${contrast(tokens[a], tokens[b])}`,
      );
    for (const line of ["line-1", "line-2"])
      // graphics: 3
      assert.ok(
        contrast(tokens[line], tokens.card) >= 3,
        `${line}, ${dark}: ${contrast(tokens[line], tokens.card)}`,
      );
    await page.close();
  }
  await mesh.stop();
});

for (const width of [1280, 400])
  for (const dark of [false, true])
    checkPage(
      `shows all of M1 at ${width} px, ${dark ? "dark" : "light"}`,
      kM1,
      async (page, mesh) => {
        mesh.find("expert-9").slow = true;
        mesh.find("expert-12").unreachable_by = ["attention-1"];
        mesh.find("expert-20").state = "draining";
        for (let second = 0; second < 8; ++second) {
          mesh.work();
          mesh.publish();
        }
        await until(page, '#flow li[data-name="expert-9"]', "slow");
        assert.equal(await page.locator("#flow li").count(), 70);
        assert.equal(await page.locator("#paces li").count(), 64);
        const canvas = page.locator("#heat-canvas");
        const box = await canvas.boundingBox();
        assert.equal(
          await canvas.getAttribute("data-turned"),
          String(width === 1280),
          "layers lie where there is room",
        );
        assert.ok(box.width <= width && box.height <= 640, JSON.stringify(box));
        await canvas.focus();
        await page.keyboard.press("End");
        assert.match(await text(page, "#heat-cell"), /Layer 79, expert 31/);
        await fitsSideways(page);
        await browser.shot(page, `m1-${width}-${dark ? "dark" : "light"}`, { whole: true });
      },
      { width, dark },
    );

checkPage("draws a whole M1 again and again, and says how long it takes", kM1, async (page) => {
  const took = await page.evaluate(async () => {
    const { HeatMap } = await import("/ops/heatmap.js");
    const { layers, experts } = document.getElementById("heat-canvas").dataset;
    const cells = layers * experts;
    const heat = new HeatMap();
    heat.setPlacement({
      workers: ["a", "b"],
      holders: Array.from({ length: cells }, () => [0, 1]),
    });
    heat.setLoad({
      layers: Number(layers),
      experts: Number(experts),
      tokens: Array.from({ length: cells }, (_, i) => i % 97),
    });
    const draws = 10;
    const start = performance.now();
    for (let i = 0; i < draws; ++i) heat.draw();
    return (performance.now() - start) / draws;
  });
  console.log(`      ${took.toFixed(1)} ms a drawing`);
});

checkPage("the heat map answers pointer and keys", kSmall, async (page, mesh) => {
  const canvas = page.locator("#heat-canvas");
  const cell = () => text(page, "#heat-cell");
  await canvas.focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  const at = (await canvas.getAttribute("data-turned")) === "true" ? [2, 1] : [1, 2];
  assert.match(await cell(), new RegExp(`Layer ${at[0]}, expert ${at[1]}`));
  const held = mesh.holders[at[0] * 8 + at[1]].map((worker) => `expert-${worker}`).join(", ");
  assert.ok((await cell()).includes(held), `${await cell()} names ${held}`);
  await page.keyboard.press("Enter");
  assert.match(await cell(), /kept/);
  await page.keyboard.press("Escape");
  assert.match(await cell(), /Point at a cell/);
  await canvas.hover({ position: { x: 60, y: 40 } });
  assert.match(await cell(), /Layer 0, expert 0/);
  await page.locator("#heat-top button").first().click();
  assert.match(await cell(), /kept/);
  for (const [mode, words] of [
    ["each", "each replica"],
    ["replicas", "committed epoch"],
  ]) {
    await page.locator(`#heat-mode input[value=${mode}]`).check();
    await until(page, "#heat-scale", words);
  }
  mesh.holders[0] = [];
  mesh.publish();
  await canvas.focus();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Home");
  await until(page, "#heat-cell", "nobody holds it");
  await page.locator('#flow li[data-name="expert-1"] button').click();
  await until(page, 'button.tile[aria-pressed="true"]', "expert-1");
  await until(page, "#topology-note", "expert-1 · alive");
});

checkPage("names and texts are never markup", kSmall, async (page, mesh) => {
  const evil = `<img src=x onerror="window.owned=1">"'&\u202e</script><script>window.owned=1</script>`;
  mesh.services.push(
    member("expert", evil, {
      unreachable_by: [evil],
      failure_domain: evil,
      endpoint: evil,
      slow: true,
    }),
    member("attention", "x".repeat(256)),
    member("router", " \n\t__proto__"),
  );
  mesh.more = {
    problem: evil,
    lost: [{ kind: "expert", name: `${evil}2`, pid: 1, heard_ms_ago: 5 }],
    phase: "preparing",
    change: { epoch: 13, moves: 1, waits_for: [evil], asked: 1, for_ms: 3 },
  };
  mesh.holders[0] = [3];
  mesh.publish();
  mesh.say("error", evil, evil, evil);
  mesh.say("info", "constructor", "__proto__", "x".repeat(512));
  await until(page, "#log li", "<script>window.owned=1</script>");
  await until(page, "#flow li", "<img src=x");
  await until(page, "#banners", "<img src=x");
  await until(page, "#epoch-body", "<img src=x");
  await page.locator("#heat-canvas").focus();
  await page.keyboard.press("Home");
  await until(page, "#heat-cell", "<img src=x");
  assert.equal(await page.evaluate(() => window.owned), undefined);
  assert.equal(await page.locator("main img, main script").count(), 0);
  await fitsSideways(page);
  await page.setViewportSize({ width: 400, height: 800 });
  await drawn(page);
  await fitsSideways(page);
});

checkPage("changes, losses and joins show without a reload", kSmall, async (page, mesh) => {
  const worker = mesh.services.splice(mesh.services.indexOf(mesh.find("expert-1")), 1)[0];
  mesh.more = {
    lost: [{ kind: "expert", name: "expert-1", pid: worker.pid, heard_ms_ago: 900 }],
    phase: "preparing",
    change: { epoch: 13, moves: 9, waits_for: ["expert-2"], asked: 2, for_ms: 1200 },
  };
  mesh.say("error", "lost", "expert-1", "expert of process 4242");
  mesh.publish();
  await page.locator('#flow li[data-name="expert-1"][data-state="lost"]').waitFor();
  assert.match(
    await text(page, "#epoch-body"),
    /Epoch 13: workers load 9 replicas; 1 of 2 are ready[^]*Waits for expert-2/,
  );
  await page.locator('#log li[data-kind="lost"]').waitFor();
  mesh.more = {};
  mesh.services.push(member("expert", "expert-3"));
  mesh.publish();
  await page.locator('#flow li[data-name="expert-3"][data-state="alive"]').waitFor();
  await page.locator('#flow li[data-name="expert-1"]').waitFor({ state: "detached" });
});

checkPage(
  "says that the mesh does not serve, or that the orchestrator stepped down",
  kSmall,
  async (page, mesh) => {
    mesh.more = { ready: false, problem: "3 of 32 experts have no live replica" };
    mesh.publish();
    await until(page, "#banners", "The mesh does not serve: 3 of 32 experts");
    await until(page, "#summary", "not serving");
    mesh.more = {
      ready: false,
      superseded: true,
      problem: "superseded by the orchestrator of generation 9",
    };
    mesh.publish();
    await until(page, "#banners", "This orchestrator has stepped down");
    await until(page, "#summary", "stepped down");
    mesh.more = {};
    mesh.publish();
    await page.waitForFunction(() => document.querySelectorAll("#banners p").length === 0);
    mesh.say(
      "error",
      "stepped down",
      "expert-0",
      "obeys the orchestrator of generation 9, this one is 1 and ends",
    );
    await until(page, "#banners", "expert-0 obeys the orchestrator of generation 9");
  },
);

checkPage("filters events and counts repeats", kSmall, async (page, mesh) => {
  mesh.say("info", "joined", "expert-0", "hello");
  mesh.say("warning", "refused", "expert-9", "another model");
  mesh.say("warning", "refused", "expert-9", "another model", { count: 2, replaces: "1.2" });
  mesh.say("error", "lost", "expert-1", "gone");
  await page.locator('#log li[data-kind="lost"]').waitFor();
  const kinds = () => page.locator("#log li b").allInnerTexts();
  assert.deepEqual(await kinds(), ["lost", "refused", "joined"]);
  assert.match(await text(page, "#log"), /2 times/);
  await page.locator('#log-filter input[value="info"]').uncheck();
  assert.deepEqual(await kinds(), ["lost", "refused"]);
  await page.fill("#log-search", "model EXPERT-9");
  assert.deepEqual(await kinds(), ["refused"]);
  assert.match(await text(page, "#log-note"), /1 of 3 events/);
  mesh.say("warning", "slow", "expert-9", "model");
  await page.waitForFunction(() => document.querySelectorAll("#log li").length === 2);
});

checkPage("says that it hears nothing, comes back and resumes", kSmall, async (page, mesh) => {
  mesh.say("info", "joined", "expert-0", "first");
  await until(page, "#log", "first");
  await mesh.stop();
  await page.locator("#link[data-state=reconnecting]").waitFor();
  await until(page, "#banners", "may be out of date");
  mesh.say("info", "joined", "expert-0", "while away");
  await mesh.serve(files);
  await page.locator("#link[data-state=live]").waitFor();
  await until(page, "#log", "while away");
  assert.equal(await page.locator("#log li").count(), 2, "nothing twice");
  mesh.refuse = true;
  for (const watcher of mesh.watchers) watcher.destroy();
  await page.locator("#link[data-state=reconnecting]").waitFor();
  mesh.refuse = false;
  await page.locator("#link[data-state=live]").waitFor();
  browser.forgive(/ERR_|Failed to load resource/);
});

checkPage("an open stream without news is stale", kSmall, async (page) => {
  await page.clock.install();
  await page.reload();
  await page.locator("#flow li").first().waitFor();
  await page.clock.runFor(4_000);
  assert.equal(await page.getAttribute("#link", "data-state"), "live");
  await page.clock.runFor(4_000);
  assert.equal(await page.getAttribute("#link", "data-state"), "stale");
  await until(page, "#banners", "No news from the orchestrator for");
});

check("logs no error of its own", async () => assert.deepEqual(browser.problems, []));

await run();
