// A test runner of thirty lines: named checks, one line each, a count at the end.
import assert from "node:assert/strict";

export { assert };

const checks = [];

export function check(name, body) {
  checks.push({ name, body });
}

/** Runs all checks in order; the process exits 1 when one failed. */
export async function run() {
  let failed = 0;
  for (const { name, body } of checks) {
    const started = performance.now();
    try {
      await body();
      console.log(`ok    ${name} (${Math.round(performance.now() - started)} ms)`);
    } catch (failure) {
      failed += 1;
      console.log(`FAIL  ${name}\n      ${String(failure.stack ?? failure).replaceAll("\n", "\n      ")}`);
    }
  }
  console.log(`${checks.length - failed} of ${checks.length} checks passed`);
  process.exit(failed === 0 ? 0 : 1);
}

/** The error that `promise` fails with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail("it succeeded");
}
