// Frames, and the agreement of the client's tables with the server's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { closeCodeReconnects, decodeBody, decodeFrame, encodeBody, encodeFrame, mayBeStored } from "../client/codec.js";
import { Places } from "../client/places.js";

test("bodies are text, JSON or bytes, and come back as they were", () => {
  const bytes = Uint8Array.from({ length: 70_000 }, (_, at) => at % 256);
  for (const body of ["", "héllo \u{1f600}", null, 0, false, [1, { a: "b" }], bytes]) {
    assert.deepEqual(decodeBody(decodeFrame(encodeFrame({ op: "send", ...encodeBody(body) }))), body);
  }
  assert.deepEqual(encodeBody(new Uint8Array([1, 2, 3, 4]).subarray(1, 3)), { body_base64: "AgM=" });
  assert.throws(() => encodeBody(undefined), TypeError);
});

test("text that UTF-8 cannot hold is mended", () => {
  assert.equal(encodeFrame({ b: "a\ud800b" }), '{"b":"a\ufffdb"}');
  assert.equal(encodeFrame({ b: "\\ud800" }), '{"b":"\\\\ud800"}');
  assert.equal(encodeFrame({ b: "\\\udfff \u{1f600}" }), '{"b":"\\\\\ufffd \u{1f600}"}');
});

test("close and error codes are those of the server", () => {
  const table = readFileSync(new URL("../../wire/src/code.rs", import.meta.url), "utf8");
  const rows = [...table.matchAll(/^ {8}\w+ = (\d+), "(\w+)", (true|false);$/gm)];
  const closes = rows.filter(([, number]) => Number(number) >= 1000);
  assert.ok(closes.length > 10 && rows.length > closes.length);
  for (const [, number, name, reconnect] of closes) assert.equal(closeCodeReconnects(Number(number)), reconnect === "true", name);
  for (const name of ["unavailable", "not_replicated", "internal"]) {
    assert.ok(mayBeStored(name) && rows.some((row) => row[2] === name), name);
  }
});

test("a move hint is a whole address or a host, and never loosens TLS", () => {
  const places = new Places(["wss://a/ws", "wss://b"], 0.9);
  assert.equal(places.next(), "wss://b/ws");
  places.hint(["c:9", "wss://d/x", "ws://plain/ws", "bad host", 7], "wss://b/ws");
  assert.deepEqual([places.next(), places.next(), places.next(), places.next("wss://b/ws")], ["wss://c:9/ws", "wss://d/x", "wss://a/ws", "wss://a/ws"]);
  assert.throws(() => new Places(["http://a"], 0), /ws:\/\/host/);
});
