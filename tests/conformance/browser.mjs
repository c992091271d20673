// A headless Chromium for checks of pages: opens them in any size and colour scheme, keeps
// screenshots, and remembers what they complained about. CHROMIUM names the browser.
import { mkdir } from "node:fs/promises";
import path from "node:path";

import { chromium } from "playwright-core";

import { assert } from "./checks.mjs";

export class Browser {
  /** Screenshots go to `folder`. */
  static async launch(folder) {
    await mkdir(folder, { recursive: true });
    const browser = new Browser();
    Object.assign(browser, { folder, problems: [] });
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu"],
    });
    return browser;
  }

  async open(url, { width = 1280, height = 800, dark = false, ...more } = {}) {
    const page = await this.chromium.newPage({
      viewport: { width, height },
      colorScheme: dark ? "dark" : "light",
      ...more,
    });
    page.setDefaultTimeout(60_000);
    page.on("console", (message) => {
      if (message.type() === "error") this.problems.push(message.text());
    });
    page.on("pageerror", (error) => this.problems.push(String(error)));
    await page.goto(url);
    return page;
  }

  /** `whole`: all of the page, not what fits the window. */
  shot(page, name, { whole = false } = {}) {
    return page.screenshot({ path: path.join(this.folder, `${name}.png`), fullPage: whole });
  }

  /** Takes back complaints that a check has caused on purpose. */
  forgive(pattern) {
    this.problems = this.problems.filter((text) => !pattern.test(text));
  }
}

/** The page and none of its boxes reach beyond the window's sides. */
export async function fitsSideways(page) {
  const wide = await page.evaluate(() => {
    const room = document.documentElement.clientWidth;
    const scrolls = (node) => {
      for (let at = node.parentElement; at && at !== document.body; at = at.parentElement)
        if (getComputedStyle(at).overflowX !== "visible") return true;
      return false;
    };
    const over = [...document.body.querySelectorAll("*")]
      .filter((node) => node.getBoundingClientRect().right > room + 1 && !scrolls(node))
      .map((node) => `${node.tagName}.${node.className}`);
    return { page: document.documentElement.scrollWidth - room, over };
  });
  assert.deepEqual(wide, { page: 0, over: [] }, "something is wider than the window");
}
