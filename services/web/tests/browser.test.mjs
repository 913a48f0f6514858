// Two people in two browsers talk through a real server, which is killed in the middle.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Chromium } from "./chromium.mjs";
import { Standalone } from "./standalone.mjs";

let server;
let browser;

before(async () => {
  server = await Standalone.start();
  browser = await Chromium.start();
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

async function enter(page, name) {
  await page.type("#name", name);
  await page.type("#room", "lobby");
  await page.click("#start");
  await connected(page);
}

async function connected(page) {
  await page.until("document.querySelector('#status').dataset.state === 'online' && document.querySelector('#status-text').textContent.startsWith('Connected to ')");
}

async function say(page, text) {
  await page.type("#text", text);
  await page.click("#send");
}

/** What the page shows: sender and text of each message, in order, with its number. */
async function shown(page) {
  return page.evaluate(`[...document.querySelectorAll("#messages .message[data-seq]")].map((entry) => [
    Number(entry.dataset.seq),
    entry.querySelector(".from").firstChild.textContent,
    entry.querySelector(".body").textContent,
  ])`);
}

async function shows(page, text) {
  await page.until(`[...document.querySelectorAll("#messages .message[data-seq] .body")].some((body) => body.textContent === ${JSON.stringify(text)})`);
}

async function pictures(pages, name) {
  if (!process.env.SCREENSHOTS) return;
  for (const [who, page] of Object.entries(pages)) await page.screenshot(join(process.env.SCREENSHOTS, `${name}-${who}.png`));
}

test("two pages talk, and find each other again after the server was killed, without gap or repeat", async () => {
  const ann = await browser.open(server.url);
  const bob = await browser.open(server.url, { width: 390, height: 780, mobile: true, dark: true });
  const pages = { ann, bob };
  await pictures(pages, "before");
  await enter(ann, "Ann");
  await enter(bob, "Bob Lee");

  await say(ann, "Hello Bob");
  await shows(bob, "Hello Bob");
  const markup = "<img src=x onerror=alert(1)> & <b>bold</b>";
  await say(bob, markup);
  await shows(ann, markup);
  assert.equal(await ann.evaluate("document.querySelectorAll('#messages img, #messages b').length"), 0);
  await pictures(pages, "talking");

  await server.kill();
  for (const page of [ann, bob]) await page.until("document.querySelector('#status').dataset.state === 'waiting'");
  await say(ann, "said while the server was away");
  await ann.until("document.querySelector('#messages .pending')");
  await pictures(pages, "away");
  await server.restart();
  for (const page of [ann, bob]) {
    await connected(page);
    await shows(page, "said while the server was away");
  }
  await say(bob, "and it is back");
  await shows(ann, "and it is back");
  await pictures(pages, "back");

  const story = [
    [1, "Ann", "Hello Bob"],
    [2, "Bob Lee", markup],
    [3, "Ann", "said while the server was away"],
    [4, "Bob Lee", "and it is back"],
  ];
  assert.deepEqual(await shown(ann), story);
  assert.deepEqual(await shown(bob), story);
  assert.equal(await ann.evaluate("document.querySelectorAll('#messages .pending, #messages .failed').length"), 0);

  const late = await browser.open(server.url, { width: 390, height: 780, mobile: true });
  await enter(late, "Cleo");
  await shows(late, "and it is back");
  assert.deepEqual(await shown(late), story, "who comes later sees what was said before");
  await pictures({ late }, "late");
  for (const page of [ann, bob, late]) assert.deepEqual(page.complaints, []);
});
