// The page at `/` in headless Chromium: page.mjs http://HOST:PORT [FOLDER]. With a folder, it keeps pictures there.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [, , address, folder] = process.argv;
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--no-first-run"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
const errors = [];

async function open(options) {
  const page = await (await browser.newContext(options)).newPage();
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(address);
  return page;
}

const page = await open({ viewport: { width: 1000, height: 700 } });
await page.waitForFunction(() => document.getElementById("about").textContent.includes("tokens of context"));
await page.click("summary");
await page.fill("#max_tokens", "24");
await page.fill("#seed", "1");
const ask = async (text) => {
  const before = await page.locator("main small").count();
  await page.fill("#text", text);
  await page.press("#text", "Enter");
  await page.waitForFunction((n) => document.querySelectorAll("main small").length > n, before);
};
await ask("Anna has a red kite. <img src=x onerror=alert(1)> What does Anna have?");
const boxes = await page.locator("main > div").allTextContents();
assert.equal(boxes.length, 2);
assert.ok(boxes[0].includes("<img src=x"), "texts are texts");
assert.equal(await page.locator("main img").count(), 0);
assert.match(boxes[1], /tokens read .* tokens, .* per second/);
console.log("Chromium: an answer: yes");

// The next turn is read from the cache.
await ask("What does Ben like?");
assert.match((await page.locator("main small").allTextContents())[1], /from the cache/);
console.log("Chromium: the next turn: yes");

// An answer that does not come, until it is stopped.
await page.route("**/v1/chat/completions", () => {});
await page.fill("#text", "Tell a long story.");
await page.press("#text", "Enter");
await page.waitForFunction(() => !document.getElementById("stop").disabled);
await page.click("#stop");
await page.waitForFunction(() => document.getElementById("stop").disabled);
assert.match((await page.locator("main small").allTextContents())[2], /stopped/);
await page.click("#clear");
assert.equal(await page.locator("main > div").count(), 0);
console.log("Chromium: stop and a new chat: yes");

for (const [name, options] of [
  ["wide", { viewport: { width: 1200, height: 700 } }],
  ["narrow", { viewport: { width: 360, height: 640 } }],
  ["dark", { viewport: { width: 900, height: 600 }, colorScheme: "dark" }],
]) {
  const shown = await open(options);
  await shown.waitForFunction(() => document.getElementById("about").textContent.includes("tokens of context"));
  await shown.fill("#text", "Anna has a red kite. What does Anna have?");
  await shown.press("#text", "Enter");
  await shown.waitForFunction(() => document.querySelectorAll("main small").length > 0);
  const fits = await shown.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth);
  assert.ok(fits, `${name}: the page is wider than the screen`);
  if (folder) await shown.screenshot({ path: `${folder}/${name}.png` });
}
assert.deepEqual(errors, []);
console.log("Chromium: narrow, wide and dark: yes");
await browser.close();
