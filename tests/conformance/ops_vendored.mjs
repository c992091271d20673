// The chart library that the orchestrator embeds is npm's, byte for byte:
// node ops_vendored.mjs SERVICES/ORCHESTRATOR/OPS/UPLOT [--update]
// --update copies it there; to change the version, edit package.json and run `npm install` first.
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

import { assert, check, run } from "./checks.mjs";

const [, , folder, update] = process.argv;
if (!folder) {
  console.error("usage: node ops_vendored.mjs FOLDER [--update]");
  process.exit(2);
}
const source = path.resolve(path.dirname(createRequire(import.meta.url).resolve("uplot")), "..");

for (const file of ["dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE"]) {
  const ours = path.join(folder, path.basename(file));
  check(`${path.basename(file)} is npm's`, async () => {
    const theirs = await readFile(path.join(source, file));
    if (update === "--update") await writeFile(ours, theirs);
    assert.ok(theirs.equals(await readFile(ours)), `${ours} differs from ${file} of the package`);
  });
}

check("the version is the one that package.json names", async () => {
  const wanted = JSON.parse(await readFile(new URL("package.json", import.meta.url))).dependencies
    .uplot;
  const { version } = JSON.parse(await readFile(path.join(source, "package.json")));
  assert.equal(version, wanted);
});

await run();
