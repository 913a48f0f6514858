// The client against a server that the test plays, on a clock that the test moves.

import assert from "node:assert/strict";
import { test } from "node:test";

import { SendError } from "../client/imcluster.js";
import { Rooms } from "../client/rooms.js";
import { Stage, heard, message, named, settle, story } from "./stage.mjs";

/** A client in room r, whose log ends at `head`. */
async function inRoom(head = 0, options = {}) {
  const stage = new Stage();
  const { client, events } = await stage.client({ rooms: ["r"], ...options });
  const auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(head)] });
  await settle();
  return { stage, client, events, auth };
}

test("authenticates with token, device and positions, and says when it has caught up", async () => {
  const stage = new Stage();
  const rooms = ["now", { room: "r", epoch: 7, seq: 2 }];
  const { events } = await stage.client({ rooms, device: "phone", token: async () => "secret", all: true });
  const auth = await stage.welcome();
  assert.deepEqual(
    { token: auth.token, device: auth.device, all: auth.all, resume: auth.resume },
    { token: "secret", device: "phone", all: true, resume: [{ room: "now" }, { room: "r", epoch: 7, seq: 2 }] },
  );
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(9, { room: "now" }), heard(3, { epoch: 7 })] });
  assert.equal(named(events, "resumed").length, 0);
  stage.socket.say(message(3, { epoch: 7 }));
  assert.deepEqual(named(events, "resumed"), [{ awayMs: null }]);
  assert.deepEqual(named(events, "state").map(({ state }) => state), ["connecting", "online"]);
});

test("drops repeats and asks again for what is missing", async () => {
  const { stage, events } = await inRoom(0);
  for (const seq of [1, 2, 2, 1, 5]) stage.socket.say(message(seq));
  const { req, rooms } = stage.socket.take("subscribe");
  assert.deepEqual(rooms, [{ room: "r", epoch: 1, seq: 2 }]);
  for (const seq of [6, 3, 4]) stage.socket.say(message(seq));
  assert.deepEqual(story(events), [1, 2]);
  stage.socket.say({ op: "subscribed", req, rooms: [heard(6)] });
  for (const seq of [3, 4, 5, 6]) stage.socket.say(message(seq));
  assert.deepEqual(story(events), [1, 2, 3, 4, 5, 6]);
});

test("gives a connection up that leaves messages out also when asked again", async () => {
  const { stage, events } = await inRoom(0);
  stage.socket.say(message(5));
  const { req } = stage.socket.take("subscribe");
  stage.socket.say({ op: "subscribed", req, rooms: [heard(5)] });
  stage.socket.say(message(5));
  assert.equal(stage.socket.closed, true);
  assert.equal(named(events, "disconnected").length, 1);
});

test("resumes after a lost connection from where it stood, with a new token", async () => {
  let asked = 0;
  const { stage, events } = await inRoom(0, { token: () => `t${++asked}` });
  stage.socket.say(message(1));
  stage.socket.drop();
  assert.equal(named(events, "disconnected")[0].retryInMs, 150);
  await stage.pass(150);
  const auth = await stage.welcome();
  assert.equal(auth.token, "t2");
  assert.deepEqual(auth.resume, [{ room: "r", epoch: 1, seq: 1 }]);
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(2)] });
  stage.socket.say(message(2));
  assert.deepEqual(story(events), [1, 2]);
  assert.deepEqual(named(events, "resumed").at(-1), { awayMs: 150 });
});

test("waits longer after each failure, up to the maximum, and at once when the network comes back", async () => {
  const stage = new Stage();
  const { client, events } = await stage.client({ reconnectMs: [100, 400] });
  for (let attempt = 0; attempt < 5; attempt += 1) {
    stage.socket.drop();
    await stage.pass(200);
  }
  assert.deepEqual(named(events, "failed").map(({ retryInMs }) => retryInMs), [50, 100, 200, 200, 200]);
  client.close();
  assert.equal(client.state, "closed");
  assert.equal(stage.timers.size, 0);
});

test("tells what a failover took back, announced or not", async () => {
  const { stage, events } = await inRoom(0);
  for (const seq of [1, 2, 3]) stage.socket.say(message(seq));
  stage.socket.say({ op: "reset", room: "r", epoch: 2, seq: 2 });
  stage.socket.say(message(3, { epoch: 2 }));
  stage.socket.say(message(3, { epoch: 3 }));
  assert.deepEqual(story(events), [1, 2, 3, "reset 2", 3, "reset 2", 3]);
});

test("tells what retention removed", async () => {
  const { stage, events } = await inRoom(0);
  stage.socket.say(message(1));
  stage.socket.say({ op: "truncated", room: "r", from: 2, to: 9 });
  stage.socket.say(message(10));
  assert.deepEqual(story(events), [1, "gone 2-9", 10]);
});

test("sends once per client id until acknowledged, also over a new connection, in order", async () => {
  const { stage, client } = await inRoom(0);
  const sends = [client.send("r", "a", { clientId: "A" }), client.send("r", { b: 1 }, { clientId: "B", type: "card" })];
  await settle();
  const first = stage.socket.take("send");
  stage.socket.take("send");
  stage.socket.drop();
  await stage.pass(150);
  const auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(0)] });
  const again = [stage.socket.take("send"), stage.socket.take("send")];
  assert.deepEqual(again.map(({ client_id: id, type, body }) => [id, type, body]), [["A", "text", "a"], ["B", "card", { b: 1 }]]);
  assert.equal(again[0].client_id, first.client_id);
  for (const [at, { req, client_id: clientId }] of again.entries()) {
    stage.socket.say({ op: "ack", req, room: "r", client_id: clientId, id: `i${at}`, epoch: 1, seq: at + 1, time: 5, duplicate: at === 0 });
  }
  const acks = await Promise.all(sends);
  assert.deepEqual(acks.map(({ seq, duplicate }) => [seq, duplicate]), [[1, true], [2, false]]);
});

test("retries what may succeed later and gives up what may not", async () => {
  const { stage, client } = await inRoom(0);
  const kept = client.send("r", "a", { clientId: "A" });
  const refused = client.send("r", "b", { clientId: "B" });
  await settle();
  const [a, b] = [stage.socket.take("send"), stage.socket.take("send")];
  stage.socket.say({ op: "error", req: a.req, code: "unavailable", text: "later", retryable: true });
  stage.socket.say({ op: "error", req: b.req, code: "too_large", text: "no", retryable: false, field: "body" });
  await assert.rejects(refused, (error) => error instanceof SendError && error.code === "too_large" && error.field === "body" && !error.maybeStored);
  await stage.pass(100);
  const again = stage.socket.take("send");
  assert.equal(again.client_id, "A");
  stage.socket.say({ op: "ack", req: again.req, room: "r", client_id: "A", id: "i", epoch: 1, seq: 1, time: 1, duplicate: false });
  assert.equal((await kept).seq, 1);
});

test("after a refusal, sends go one at a time until none waits, so that none overtakes another", async () => {
  const { stage, client } = await inRoom(0);
  const ids = ["A", "B", "C"];
  const sends = ids.map((clientId) => client.send("r", clientId, { clientId }));
  await settle();
  for (const id of ids) {
    const { req, client_id: clientId } = stage.socket.take("send");
    assert.equal(clientId, id);
    stage.socket.say({ op: "error", req, code: "rate_limited", text: "slower", retryable: true });
  }
  await stage.pass(5_000);
  for (const [at, id] of ids.entries()) {
    const { req, client_id: clientId } = stage.socket.take("send");
    assert.equal(clientId, id);
    assert.equal(stage.socket.written.filter(({ op }) => op === "send").length, 0);
    stage.socket.say({ op: "ack", req, room: "r", client_id: id, id, epoch: 1, seq: at + 1, time: 1, duplicate: false });
  }
  assert.deepEqual((await Promise.all(sends)).map(({ seq }) => seq), [1, 2, 3]);
  const more = ["D", "E"].map((clientId) => client.send("r", clientId, { clientId }));
  await settle();
  assert.equal(stage.socket.written.filter(({ op }) => op === "send").length, 2);
  client.close();
  await Promise.allSettled(more);
});

test("a send that is out of time says whether it may be stored", async () => {
  const stage = new Stage();
  const { client } = await stage.client();
  const offline = client.send("r", "a", { timeoutMs: 1_000 }).catch((error) => error);
  await stage.pass(1_000);
  assert.equal((await offline).maybeStored, false);
  await stage.welcome();
  const unanswered = client.send("r", "b", { timeoutMs: 1_000 }).catch((error) => error);
  await stage.pass(1_000);
  const error = await unanswered;
  assert.deepEqual([error.code, error.maybeStored, error.retryable], ["timeout", true, true]);
});

test("a refusal after an attempt without answer does not say that it is not stored", async () => {
  const { stage, client } = await inRoom(0);
  const sent = client.send("r", "a", { clientId: "A" }).catch((error) => error);
  await settle();
  stage.socket.take("send");
  // It may be stored: the answer was lost with the connection. Meanwhile the user has left the room.
  stage.socket.drop();
  await stage.pass(150);
  const auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(0)] });
  const { req } = stage.socket.take("send");
  stage.socket.say({ op: "error", req, code: "not_a_member", text: "you have left", retryable: false });
  const error = await sent;
  assert.deepEqual([error.code, error.maybeStored, error.retryable], ["not_a_member", true, false]);
});

test("a late answer counts for the room it names only", async () => {
  const { stage, client } = await inRoom(0);
  const rooms = ["r", "s"];
  const sends = rooms.map((room) => client.send(room, "a", { clientId: "1" }));
  await settle();
  const first = rooms.map(() => stage.socket.take("send"));
  // Neither is answered in time; then the answer to the second attempt's elder comes.
  await stage.pass(10_000);
  stage.socket.say({ op: "ack", req: first[1].req, room: "s", client_id: "1", id: "i", epoch: 1, seq: 7, time: 1, duplicate: false });
  assert.deepEqual(await sends[1].then(({ room, seq }) => [room, seq]), ["s", 7]);
  await stage.pass(1_000);
  const again = stage.socket.take("send");
  assert.equal(again.room, "r");
  stage.socket.say({ op: "ack", req: again.req, room: "r", client_id: "1", id: "j", epoch: 1, seq: 1, time: 1, duplicate: false });
  assert.deepEqual(await sends[0].then(({ room, seq }) => [room, seq]), ["r", 1]);
});

test("a log set back to a smaller epoch is followed while two connections deliver", () => {
  const position = { room: "r", epoch: 5, seq: 10 };
  const rooms = new Rooms([position], false);
  for (const lane of /** @type {const} */ ([0, 1])) {
    rooms.ask(lane);
    rooms.subscribed(lane, true, "r", 5, 10, 0, position);
  }
  const said = (lane, epoch, seq) => rooms.message(lane, false, message(seq, { epoch })).verdict;
  // The master that began epoch 5 is lost with it; the next one's clock is behind.
  assert.equal(rooms.reset(0, false, "r", 3, 8), true);
  assert.equal(said(0, 3, 9), "deliver");
  assert.equal(said(1, 5, 11), "stale");
  assert.equal(said(0, 3, 10), "deliver");
  assert.equal(rooms.reset(1, false, "r", 3, 8), false);
  assert.deepEqual([said(1, 3, 9), said(1, 3, 10), said(1, 3, 11)], ["repeat", "repeat", "deliver"]);
  assert.deepEqual(rooms.positions(), [{ room: "r", epoch: 3, seq: 11 }]);
});

test("makes the new connection before it breaks the old one, and hears each message once", async () => {
  const { stage, client, events } = await inRoom(0);
  const old = stage.socket;
  old.say(message(1));
  old.say({ op: "move", after_ms: 500, deadline_ms: 9_000, to: ["two:2"], reason: "draining" });
  await stage.pass(499);
  assert.equal(stage.sockets.length, 1);
  await stage.pass(1);
  assert.equal(stage.socket.url, "ws://two:2/ws");
  const sent = client.send("r", "x", { clientId: "X" });
  await settle();
  const { req } = old.take("send");
  const auth = await stage.welcome({ node: "n2" });
  assert.deepEqual(auth.resume, [{ room: "r", epoch: 1, seq: 1 }]);
  old.say(message(2));
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(2)] });
  stage.socket.say(message(2));
  assert.equal(old.closed, false, "the old one still owes an answer");
  old.say({ op: "ack", req, room: "r", client_id: "X", id: "i", epoch: 1, seq: 3, time: 1, duplicate: false });
  assert.equal(old.closed, true);
  assert.equal((await sent).seq, 3);
  stage.socket.say(message(3));
  assert.deepEqual(story(events), [1, 2, 3]);
  assert.deepEqual(named(events, "moved"), [{ node: "n2", url: "ws://two:2/ws" }]);
  assert.equal(named(events, "disconnected").length, 0);
});

test("a move that comes to nothing is tried again at the known address; a lost old connection ends it", async () => {
  const { stage, events } = await inRoom(0);
  const old = stage.socket;
  old.say({ op: "move", after_ms: 0, deadline_ms: 9_000, to: ["ws://two:2/ws"], reason: "draining" });
  await stage.pass(0);
  stage.socket.drop();
  await stage.pass(150);
  assert.equal(stage.sockets.length, 3);
  assert.equal(stage.socket.url, "ws://one:1/ws");
  old.drop();
  const auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(1)] });
  stage.socket.say(message(1));
  assert.deepEqual(story(events), [1]);
});

test("ends where the server says so, and where the token stays refused", async () => {
  const kicked = await inRoom(0);
  kicked.stage.socket.say({ op: "close", code: 4006, name: "kicked", text: "bye", reconnect: false, after_ms: 0 });
  assert.deepEqual(named(kicked.events, "ended").map(({ code, reason }) => [code, reason]), [[4006, "bye"]]);
  await assert.rejects(kicked.client.send("r", "x"), { code: "closed" });

  const stage = new Stage();
  const { client, events } = await stage.client({ token: () => "stale", reconnectMs: [10, 10] });
  for (let attempt = 0; attempt < 3; attempt += 1) {
    stage.socket.accept();
    await settle();
    stage.socket.say({ op: "error", req: 1, code: "token_expired", text: "too old", retryable: false });
    await stage.pass(10);
  }
  assert.equal(client.state, "closed");
  assert.equal(named(events, "ended")[0].error.code, "token_expired");
});

test("waits as long as a close asks for", async () => {
  const { stage, events } = await inRoom(0);
  stage.socket.say({ op: "close", code: 4007, name: "too_many_connections", text: "", reconnect: true, after_ms: 2_000 });
  assert.equal(named(events, "disconnected")[0].retryInMs, 2_150);
});

test("a silent server is found by a ping and given up", async () => {
  const { stage, events } = await inRoom(0);
  await stage.pass(13_000);
  stage.socket.say({ op: "pong", req: stage.socket.take("ping").req, time: 1 });
  await stage.pass(20_000);
  stage.socket.take("ping");
  await stage.pass(20_000);
  assert.equal(named(events, "disconnected")[0].reason, "the server has fallen silent");
});

test("renews the token before it ends", async () => {
  let asked = 0;
  const stage = new Stage();
  await stage.client({ token: () => `t${++asked}`, pingIntervalMs: 1e9 });
  await stage.welcome({ time: 1_000_000, expires: 1_100_000 });
  await stage.pass(75_000);
  const { req, token } = stage.socket.take("refresh");
  assert.equal(token, "t2");
  stage.socket.say({ op: "refreshed", req, expires: 1_300_000 });
  await stage.pass(160_000);
  assert.equal(asked, 2);
  await stage.pass(10_000);
  assert.equal(stage.socket.take("refresh").token, "t3");
});

test("asks for history and read positions, and errors come back typed", async () => {
  const { stage, client } = await inRoom(0);
  const page = client.history("r", { before: 5, limit: 2 });
  await settle();
  const asked = stage.socket.take("history");
  assert.deepEqual([asked.room, asked.before, asked.limit, "after" in asked], ["r", 5, 2, false]);
  const messages = [{ epoch: 1, seq: 4, id: "i", from: "u", client_id: "", type: "file", body_base64: "AP8=", time: 9 }];
  stage.socket.say({ op: "history", req: asked.req, room: "r", epoch: 1, head: 4, messages });
  assert.deepEqual((await page).messages[0], { room: "r", epoch: 1, seq: 4, id: "i", from: "u", clientId: "", type: "file", body: new Uint8Array([0, 255]), time: 9 });

  const read = client.read("r", 4).catch((error) => error);
  stage.socket.say({ op: "error", req: stage.socket.take("read").req, code: "not_a_member", text: "no", retryable: false });
  assert.equal((await read).code, "not_a_member");
  const lost = client.read("r", 4).catch((error) => error);
  stage.socket.drop();
  assert.equal((await lost).code, "not_connected");
});

test("a room refused for the moment is asked for again; one refused for good is forgotten", async () => {
  const stage = new Stage();
  const { client, events } = await stage.client();
  await stage.welcome();
  const both = client.subscribe(["busy", "closed"]);
  await settle();
  const { req } = stage.socket.take("subscribe");
  const refuse = (room, retryable) => ({ room, error: { code: retryable ? "unavailable" : "forbidden", text: "", retryable } });
  stage.socket.say({ op: "subscribed", req, rooms: [refuse("busy", true), refuse("closed", false)] });
  assert.deepEqual((await both).map(({ room, error }) => [room, error.code]), [["busy", "unavailable"], ["closed", "forbidden"]]);
  await stage.pass(200);
  assert.deepEqual(stage.socket.take("subscribe").rooms, [{ room: "busy" }]);
  assert.equal(named(events, "refused").length, 2);
});

test("many positions are split over several frames", async () => {
  const stage = new Stage();
  const rooms = Array.from({ length: 100 }, (_, at) => ({ room: `room-${at}`, epoch: 1, seq: at }));
  await stage.client({ rooms, maxSubscribeBytes: 1_000 });
  const auth = await stage.welcome();
  const asked = [...auth.resume, ...stage.socket.written.flatMap((frame) => frame.rooms ?? [])];
  assert.deepEqual(asked, rooms);
  assert.ok(stage.socket.written.length > 3);
});

test("under all, a room joined while away is fetched from the joining on, and one that was left stays silent", async () => {
  const stage = new Stage();
  const { events } = await stage.client({ all: true });
  let auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(3)] });
  stage.socket.drop();
  await stage.pass(150);
  auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(3), heard(8, { room: "new", joined: 6 })] });
  assert.deepEqual(stage.socket.take("subscribe").rooms, [{ room: "new", epoch: 1, seq: 6 }]);
  stage.socket.say({ op: "room_changed", room: "r", subscribed: false, reason: "kicked" });
  stage.socket.say(message(4));
  assert.deepEqual(story(events), []);
  assert.deepEqual(named(events, "room"), [{ room: "r", subscribed: false, reason: "kicked" }]);
});

test("a room that was begun and is gone after a reconnection is told", async () => {
  const stage = new Stage();
  const { events } = await stage.client({ all: true });
  let auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [] });
  for (const room of ["kept", "gone"]) stage.socket.say({ op: "room_changed", room, subscribed: true, reason: "joined" });
  stage.socket.drop();
  await stage.pass(150);
  auth = await stage.welcome();
  stage.socket.say({ op: "subscribed", req: auth.req, rooms: [heard(3, { room: "kept", joined: 3 })] });
  assert.deepEqual(named(events, "room").at(-1), { room: "gone", subscribed: false, reason: "left" });
  assert.equal(named(events, "room").length, 3);
});

test("becoming a member of a room that is asked for does not end it", async () => {
  const { stage, events } = await inRoom(2);
  stage.socket.say({ op: "room_changed", room: "r", subscribed: false, reason: "joined" });
  stage.socket.say(message(3));
  assert.deepEqual(story(events), [3]);
});

test("whatever a server says, the client neither throws nor hangs", async () => {
  for (const said of ["", "[]", "null", "{", '{"op":1}', '{"op":"tomorrow"}', '{"op":"subscribed"}', '{"op":"ack"}', '{"op":"error"}', '{"op":"history","req":99}', '{"op":"move","to":7}', '{"op":"subscribed","rooms":{}}', '{"op":"close"}']) {
    const { stage, client } = await inRoom(0);
    stage.socket.say(said);
    await stage.pass(60_000);
    client.close();
    assert.equal(stage.timers.size, 0, said);
  }
});
