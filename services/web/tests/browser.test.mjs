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

async function enter(page, name, room = "lobby") {
  await page.type("#name", name);
  await page.type("#room", room);
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

test("a server that is told to end is waited for, and found again", async () => {
  const page = await browser.open(server.url);
  await enter(page, "Ann", "leaving");
  await say(page, "before");
  await shows(page, "before");
  assert.equal(await server.terminate(), 0);
  await page.until("document.querySelector('#status').dataset.state === 'waiting'");
  await server.restart();
  await connected(page);
  await say(page, "after");
  await shows(page, "after");
  assert.deepEqual(await shown(page), [[1, "Ann", "before"], [2, "Ann", "after"]]);
});

test("who comes late sees the latest, and what was before on request", async () => {
  const token = await server.token({ sub: "backend", rooms: ["*"] });
  for (let number = 1; number <= 60; number += 1) {
    const answer = await fetch(`http://${server.addresses.http}/v1/rooms/busy/messages`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ client_id: `c${number}`, type: "text", body: `message ${number}` }),
    });
    assert.equal(answer.ok, true);
  }
  const page = await browser.open(server.url);
  await enter(page, "Ann", "busy");
  await shows(page, "message 60");
  assert.deepEqual((await shown(page)).map(([seq]) => seq), Array.from({ length: 50 }, (_, at) => at + 11));
  await page.evaluate("document.querySelector('#scroller').scrollTop = 0");
  await page.click("#older");
  await shows(page, "message 1");
  assert.deepEqual((await shown(page)).map(([seq]) => seq), Array.from({ length: 60 }, (_, at) => at + 1));
  assert.equal(await page.evaluate("document.querySelector('#older').hidden"), true);
});

test("a room that is not open says so, and a token takes the place of a name", async () => {
  const guest = await browser.open(server.url);
  await enter(guest, "Ann", "direct:3:bob:cleo");
  await guest.until("!document.querySelector('#problem').hidden");
  const bob = await browser.open(server.url);
  await bob.click("#credentials summary");
  await bob.type("#token", await server.token({ sub: "bob" }));
  await enter(bob, "anything", "direct:3:bob:cleo");
  await say(bob, "hello Cleo");
  await shows(bob, "hello Cleo");
  assert.deepEqual(await shown(bob), [[1, "bob", "hello Cleo"]]);
  assert.deepEqual([...guest.complaints, ...bob.complaints], []);
});
