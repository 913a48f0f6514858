// A stage for the client: a clock that stands still until told, and WebSockets whose other end is the test.

import { Client } from "../client/imcluster.js";

/** Lets everything that is ready run: promises chained on each other need several turns. */
export async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

export class Stage {
  constructor() {
    this.time = 0;
    this.timers = new Map();
    this.nextTimer = 1;
    /** Every socket that was dialled, in order. @type {FakeSocket[]} */
    this.sockets = [];
    const stage = this;
    this.environment = {
      now: () => this.time,
      random: () => 0.5,
      setTimeout: (run, ms) => {
        this.timers.set(this.nextTimer, { at: this.time + ms, run });
        return this.nextTimer++;
      },
      clearTimeout: (timer) => this.timers.delete(timer),
      WebSocket: class extends FakeSocket {
        constructor(url) {
          super(url);
          stage.sockets.push(this);
        }
      },
    };
  }

  /** Lets time pass, timer by timer. */
  async pass(ms) {
    const end = this.time + ms;
    await settle();
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, { at, run }] = due;
      this.timers.delete(id);
      this.time = Math.max(this.time, at);
      run();
      await settle();
    }
    this.time = end;
  }

  /** A client, and the events that it has told so far as `[type, detail]`. */
  async client(options = {}) {
    const client = new Client({ url: "ws://one:1/ws", token: "t", environment: this.environment, ...options });
    const events = [];
    for (const type of EVENTS) client.on(type, (detail) => events.push([type, detail]));
    await settle();
    return { client, events };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Lets the latest socket be opened and welcomed. */
  async welcome(more = {}) {
    this.socket.accept();
    await settle();
    const auth = this.socket.take("auth");
    this.socket.say({ op: "auth_ok", req: auth.req, user: "u", device: "d", conn: "c", node: "n1", heartbeat_ms: 60_000, time: 0, expires: 0, ...more });
    await settle();
    return auth;
  }
}

const EVENTS = ["state", "connected", "resumed", "disconnected", "failed", "moving", "moved", "subscribed", "refused", "unsubscribed", "message", "signal", "reset", "truncated", "room", "read", "ended"];

class FakeSocket {
  constructor(url) {
    this.url = url;
    this.readyState = 0;
    this.bufferedAmount = 0;
    /** What the client has written and the test has not taken. */
    this.written = [];
    this.closed = false;
  }

  accept() {
    this.readyState = 1;
    this.onopen?.();
  }

  send(text) {
    this.written.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
    this.closed = true;
  }

  /** The first frame of this operation, which is taken. */
  take(op) {
    const at = this.written.findIndex((frame) => frame.op === op);
    if (at < 0) throw new Error(`no ${op} was written, but ${JSON.stringify(this.written)}`);
    return this.written.splice(at, 1)[0];
  }

  say(frame) {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  /** The network takes the connection away. */
  drop(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

/** A message as a server says it. */
export function message(seq, { room = "r", epoch = 1, body = `m${seq}` } = {}) {
  return { op: "message", room, epoch, seq, id: `id${epoch}-${seq}`, from: "u", client_id: `c${seq}`, type: "text", body, time: seq };
}

export function heard(head, { room = "r", epoch = 1, joined = 0, read = 0 } = {}) {
  return { room, kind: "open", epoch, head, read, joined };
}

/** The seqs that were delivered, with resets and truncations between them. */
export function story(events) {
  return events.flatMap(([type, detail]) => {
    if (type === "message") return [detail.seq];
    if (type === "reset") return [`reset ${detail.seq}`];
    if (type === "truncated") return [`gone ${detail.from}-${detail.to}`];
    return [];
  });
}

export function named(events, type) {
  return events.filter(([name]) => name === type).map(([, detail]) => detail);
}
