// A page of another origin uses the HTTP API from a browser where it is listed, and only there.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { Chromium } from "./chromium.mjs";
import { Standalone } from "./standalone.mjs";

let site;
let server;
let browser;

before(async () => {
  // Somebody else's application; `localhost` and `127.0.0.1` are two origins of it.
  site = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html><html data-ready=true><title>app</title>"));
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  server = await Standalone.start("--http-allowed-origins", `http://localhost:${site.address().port}`);
  browser = await Chromium.start();
});

after(async () => {
  await browser?.close();
  await server?.stop();
  site?.close();
});

/** What the page gets: [status, body], or the browser's refusal. */
async function ask(page, path, options) {
  const request = JSON.stringify([`http://${server.addresses.http}${path}`, options]);
  return page.evaluate(`fetch(...${request}).then(async (answer) => [answer.status, await answer.json(), answer.headers.get("retry-after")], (error) => error.name)`);
}

test("a listed origin's page makes groups, reads and is told what is wrong; another's gets nothing", async () => {
  const token = await server.token({ sub: "ann" });
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const port = site.address().port;

  const page = await browser.open(`http://localhost:${port}/`);
  const [made, group] = await ask(page, "/v1/rooms", { method: "POST", headers, body: JSON.stringify({ kind: "group" }) });
  assert.equal(made, 201);
  const [put] = await ask(page, `/v1/rooms/${group.id}/read`, { method: "PUT", headers, body: JSON.stringify({ seq: 0 }) });
  assert.equal(put, 200);
  const [listed, rooms] = await ask(page, "/v1/rooms", { headers });
  assert.deepEqual([listed, rooms.rooms.map(({ id }) => id)], [200, [group.id]]);
  const [refused, told] = await ask(page, "/v1/me", { headers: { authorization: "Bearer nonsense" } });
  assert.deepEqual([refused, told.error.code], [401, "unauthenticated"]);
  const form = new URLSearchParams({ room_id: group.id, type: "text", msg: "hi", user_id: "ann", shop_id: "1" }).toString();
  const golangIm = { token, "content-type": "application/x-www-form-urlencoded" };
  const [pushed, answer] = await ask(page, "/open/push", { method: "POST", headers: golangIm, body: form });
  assert.deepEqual([pushed, answer.success], [200, true]);

  const stranger = await browser.open(`http://127.0.0.1:${port}/`);
  assert.equal(await ask(stranger, "/v1/rooms", { headers }), "TypeError");
});
