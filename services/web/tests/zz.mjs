// Whatever the network and the servers do, what the application has heard in the end is the log: a model of a room with
// failovers, behind nodes that lose, repeat and lag, is played against the client with many seeds.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Stage, heard, settle } from "./stage.mjs";

/** Small, and the same everywhere. */
function randomness(seed) {
  let state = seed * 2_654_435_761;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 2_246_822_519) + 0x9e37_79b9) | 0;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32;
  };
}

/** A room's log: what a failover takes back is gone, and its places are given again in a new epoch. */
class Log {
  entries = [];
  epoch = 1;
  /** Per new epoch: the head at its beginning. */
  bases = [];
  said = 0;

  append() {
    this.said += 1;
    this.entries.push({ epoch: this.epoch, id: `m${this.said}` });
  }

  failOver(lost) {
    this.entries.length = Math.max(0, this.entries.length - lost);
    this.epoch += 1;
    this.bases.push({ epoch: this.epoch, base: this.entries.length });
  }

  get head() {
    return this.entries.length;
  }

  /** What a position is worth: null, or the seq to which it is reset. */
  verdict(epoch, seq) {
    const later = this.bases.filter((each) => each.epoch > epoch).map(({ base }) => base);
    const worth = Math.min(this.head, ...(epoch === 0 ? [] : later));
    return seq > worth ? worth : null;
  }

  frame(seq) {
    const { epoch, id } = this.entries[seq - 1];
    return { op: "message", room: "r", epoch, seq, id, from: "u", client_id: id, type: "text", body: id, time: seq };
  }
}

/** One node's side of a socket: frames that are on their way, and how far it believes the client to be. */
class Node {
  constructor(socket, log) {
    this.socket = socket;
    this.log = log;
    this.queue = [];
    this.place = null;
  }

  /** Reads what the client has written. */
  read() {
    for (const frame of this.socket.written.splice(0)) {
      const { op, req } = frame;
      if (op === "auth") this.queue.push({ op: "auth_ok", req, user: "u", device: "d", conn: "c", node: "n", heartbeat_ms: 600_000, time: 0, expires: 0 });
      const [position] = frame.resume ?? frame.rooms ?? [];
      if (position) this.subscribe(req, position);
      if (op === "ping") this.queue.push({ op: "pong", req, time: 0 });
    }
  }

  subscribe(req, { epoch = 0, seq = null }) {
    const { log } = this;
    this.queue.push({ op: "subscribed", req, rooms: [heard(log.head, { epoch: log.epoch })] });
    this.place = { epoch, seq: seq ?? log.head };
    this.catchUp();
  }

  /** What the log has and the client has not. */
  catchUp() {
    const { log, place } = this;
    if (!place) return;
    const worth = place.epoch === log.epoch ? null : log.verdict(place.epoch, place.seq);
    if (worth !== null) {
      this.queue.push({ op: "reset", room: "r", epoch: log.epoch, seq: worth });
      place.seq = worth;
    }
    place.epoch = log.epoch;
    while (place.seq < log.head) this.queue.push(log.frame(++place.seq));
  }

  deliver() {
    const frame = this.queue.shift();
    if (frame) this.socket.say(frame);
  }
}

async function play(seed) {
  const random = randomness(seed);
  const stage = new Stage();
  stage.environment.random = random;
  const log = new Log();
  const { client, events } = await stage.client({ url: ["ws://one:1/ws", "ws://two:2/ws"], rooms: [{ room: "r", epoch: 1, seq: 0 }], reconnectMs: [50, 200] });
  const nodes = new Map();
  const alive = () => [...nodes.values()].filter(({ socket }) => socket.readyState === 1 && !socket.closed);

  const turn = async (faults) => {
    for (const socket of stage.sockets) {
      if (nodes.has(socket) || socket.closed) continue;
      nodes.set(socket, new Node(socket, log));
      socket.accept();
      await settle();
    }
    const node = alive()[Math.floor(random() * alive().length)];
    // While two deliver at once, trouble is likely: that is where they may contradict each other.
    const trouble = alive().length > 1 ? 0.12 : 0.02;
    const dice = random();
    if (node && faults && dice < 0.03) node.socket.drop();
    else if (node && faults && dice < 0.1) node.queue.push({ op: "move", after_ms: 1, deadline_ms: 500, to: [], reason: "draining" });
    else if (node && faults && dice < 0.13 && node.queue[0]?.op === "message") node.queue.shift();
    else if (node && faults && dice < 0.16 && node.queue[0]?.op === "message") node.queue.unshift(node.queue[0]);
    else if (faults && dice < 0.16 + trouble) log.failOver(Math.floor(random() * 4));
    else if (faults && dice < 0.45) log.append();
    else if (node && dice < 0.6) node.catchUp();
    else if (node) node.deliver();
    for (const each of alive()) each.read();
    await stage.pass(dice < 0.5 ? 5 : 0);
  };

  for (let step = 0; step < 250; step += 1) await turn(true);
  log.append();
  let quiet = 0;
  for (let step = 0; quiet < 20; step += 1) {
    assert.ok(step < 5_000, `seed ${seed}: never comes to rest`);
    await turn(false);
    for (const node of alive()) node.catchUp();
    quiet = client.state === "online" && alive().every(({ queue }) => queue.length === 0) ? quiet + 1 : 0;
  }

  const view = [];
  for (const [type, detail] of events) {
    if (type === "reset") {
      assert.ok(detail.seq < view.length, `seed ${seed}: a reset that takes nothing back`);
      view.length = detail.seq;
    }
    if (type === "message") {
      assert.equal(detail.seq, view.length + 1, `seed ${seed}: in order, without gap or repeat`);
      view.push(detail.id);
    }
  }
  assert.deepEqual(view, log.entries.map(({ id }) => id), `seed ${seed}`);
  client.close();
  return events;
}

test("in the end the application has heard the log, over losses, repeats, moves, outages and failovers", async () => {
  const seen = new Set();
  for (let seed = 3001; seed <= 9000; seed += 1) for (const [type] of await play(seed)) seen.add(type);
  for (const type of ["reset", "moved", "disconnected", "resumed", "message"]) assert.ok(seen.has(type), `${type} never happened`);
});
