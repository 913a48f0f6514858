// The client as applications see it.
//
//   const client = new Client({ url: "wss://chat.example/ws", token: async () => fetchToken() });
//   client.on("message", ({ room, seq, from, body }) => show(room, seq, from, body));
//   await client.subscribe("lobby");
//   const { seq } = await client.send("lobby", "hello");
//
// It connects by itself and again whenever the connection is lost, resumes every room where it stood, delivers each
// message once and in order, and writes a send again under one id until it is acknowledged.

import { Backoff } from "./backoff.js";
import { encodeBody, readMessage } from "./codec.js";
import { RequestError, SendError } from "./errors.js";
import { Session, readState } from "./session.js";

/** @typedef {import("./codec.js").Message} Message */
/** @typedef {import("./rooms.js").Position} Position */
/** @typedef {{room: string, clientId: string, id: string, epoch: number, seq: number, time: number, duplicate: boolean}} Ack */
/** @typedef {{room: string, kind: string, epoch: number, head: number, read: number, joined: number}} Heard */
/** @typedef {{room: string, error: RequestError}} Refused */
/** @typedef {{room: string, read: number, head: number, unread: number}} ReadState */
/** @typedef {{room: string, epoch: number, head: number, truncated: {from: number, to: number} | null, messages: Message[]}} HistoryPage */

/**
 * What happens, in order.
 * @typedef {object} Events
 * @property {{state: "connecting" | "online" | "waiting" | "closed"}} state for showing it to people
 * @property {{user: string, device: string, conn: string, node: string, url: string}} connected a connection stands after
 *   there was none; what was missed follows
 * @property {{awayMs: number | null}} resumed everything missed has been delivered; null after the first connect
 * @property {{code?: number, reason: string, retryInMs: number}} disconnected the connection is gone and will be made again
 * @property {{url: string, reason: string, retryInMs: number}} failed an attempt to connect failed
 * @property {{reason: string, afterMs: number}} moving the server asks to connect elsewhere; delivery goes on meanwhile
 * @property {{node: string, url: string}} moved the new connection has taken over; nothing was missed
 * @property {Heard & {after: number}} subscribed a room is heard; messages after `after` follow
 * @property {Refused} refused a room is not heard; where the error is retryable the client asks again by itself
 * @property {{room: string}} unsubscribed a room is no longer heard, as asked
 * @property {Message} message per room in order of seq, each once
 * @property {{room: string, from: string, type: string, body: unknown, operation: number}} signal not stored: at most once
 * @property {{room: string, epoch: number, seq: number}} reset the store has lost its tail: forget the room beyond `seq`
 * @property {{room: string, from: number, to: number}} truncated retention has removed these before they were delivered
 * @property {{room: string, subscribed: boolean, reason: string}} room the user is a member now, or no longer is
 * @property {ReadState} read the user has read on another device
 * @property {{code?: number, reason: string, error?: RequestError}} ended the last event: the client does not come back
 */

/**
 * @typedef {object} Options
 * @property {string | string[]} url `ws://host:3102/ws` or `wss://…`; of several, each is tried in turn
 * @property {string | (() => string | Promise<string>)} token the signed token, or where to get one: a function is asked
 *   for every connection and before the token ends
 * @property {string} [device] this installation, where the token names none
 * @property {string} [agent] name and version of the application, for the server's log
 * @property {(string | Position)[]} [rooms] rooms to hear from the start on; as positions: from where an earlier run stood
 * @property {boolean} [all] besides, every room that the user is a member of, now and later
 * @property {number} [sendTimeoutMs] a send ends after this; must stay below the server's dedupe window. Default 120,000
 * @property {number} [requestTimeoutMs] any other request ends after this. Default 10,000
 * @property {number} [connectTimeoutMs] for one attempt to connect. Default 10,000
 * @property {number} [tokenTimeoutMs] for the token source. Default 10,000
 * @property {number} [authTimeoutMs] for the server's answer to the auth. Default 10,000
 * @property {number} [attemptTimeoutMs] a send that is not answered within this is written again. Default 10,000
 * @property {[number, number]} [reconnectMs] the upper ends of the first and of every wait between attempts. Default 300, 30,000
 * @property {[number, number]} [resendMs] the same between attempts of a send. Default 100, 5,000
 * @property {number} [pingIntervalMs] default: a third of what the server says it wants to hear from us within
 * @property {number} [moveGraceMs] after a move, how long the old connection is kept for its answers. Default 2,000
 * @property {number} [inFlight] sends written and not answered. Default 256
 * @property {number} [inFlightPerRoom] the same per room; 1 rules out that one refused for the moment is overtaken. Default 64
 * @property {number} [maxPending] sends taken and not ended; one more is refused. Default 1,024
 * @property {number} [maxSubscribeBytes] subscriptions are split into frames of about so many bytes. Default 3,000
 * @property {number} [writeBufferBytes] while more than this waits to be written, sends wait. Default 262,144
 * @property {Partial<Environment>} [environment] for runtimes without the browser's names, and for tests
 */

/**
 * @typedef {object} Environment
 * @property {typeof WebSocket} WebSocket
 * @property {() => number} now milliseconds that never go back
 * @property {(run: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random uniform in [0, 1)
 */

/** @typedef {Required<Omit<Options, "url" | "reconnectMs" | "resendMs">> & {urls: string[], reconnect: Backoff, resend: Backoff, environment: Environment}} Settings */

const DEFAULTS = {
  all: false,
  sendTimeoutMs: 120_000,
  requestTimeoutMs: 10_000,
  connectTimeoutMs: 10_000,
  tokenTimeoutMs: 10_000,
  authTimeoutMs: 10_000,
  attemptTimeoutMs: 10_000,
  reconnectMs: [300, 30_000],
  resendMs: [100, 5_000],
  moveGraceMs: 2_000,
  inFlight: 256,
  inFlightPerRoom: 64,
  maxPending: 1_024,
  maxSubscribeBytes: 3_000,
  writeBufferBytes: 262_144,
  agent: "imcluster-js/0.1.0",
};

/** @returns {Environment} */
function browser() {
  return {
    WebSocket: globalThis.WebSocket,
    now: () => performance.now(),
    setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(timer),
    random: Math.random,
  };
}

/** @param {Options} options @returns {Settings} */
function settle(options) {
  const { url, reconnectMs, resendMs, rooms = [], environment, ...rest } = { ...DEFAULTS, ...options };
  return /** @type {any} */ ({
    ...rest,
    urls: [url].flat(),
    rooms: rooms.map(position),
    reconnect: new Backoff(...reconnectMs),
    resend: new Backoff(...resendMs),
    environment: { ...browser(), ...environment },
  });
}

/** @param {string | Position} room @returns {Position} */
function position(room) {
  return typeof room === "string" ? { room } : room;
}

/** A connection to ImCluster that heals itself. Its events are `CustomEvent`s whose `detail` is described in {@link Events}. */
export class Client extends EventTarget {
  #settings;
  #session;
  #nudge = () => this.#session.nudge();
  #visible = () => {
    if (globalThis.document?.visibilityState === "visible") this.#session.nudge();
  };

  /**
   * Begins to connect at once; events follow in a later task.
   * @param {Options} options
   */
  constructor(options) {
    super();
    this.#settings = settle(options);
    this.#session = new Session(this.#settings, (type, detail) => this.#emit(type, detail));
    globalThis.addEventListener?.("online", this.#nudge);
    globalThis.document?.addEventListener("visibilitychange", this.#visible);
    queueMicrotask(() => this.#session.ended || this.#session.start());
  }

  #emit(type, detail) {
    if (type === "ended") this.#forgetPage();
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #forgetPage() {
    globalThis.removeEventListener?.("online", this.#nudge);
    globalThis.document?.removeEventListener("visibilitychange", this.#visible);
  }

  /**
   * Calls `listener` with the detail of every event of this type.
   * @template {keyof Events} T
   * @param {T} type
   * @param {(detail: Events[T]) => void} listener
   * @returns {() => void} ends it
   */
  on(type, listener) {
    const heard = (event) => listener(event.detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  /** "idle", "connecting", "online", "waiting" (for the next attempt) or "closed". */
  get state() {
    return this.#session.state;
  }

  /** Where every room stands, to begin from after a restart (`rooms` of the options). @returns {Position[]} */
  get positions() {
    return this.#session.rooms.positions();
  }

  /**
   * Hears rooms. Resolves once the server has answered for each; while there is no connection, that is later.
   * @param {string | Position | (string | Position)[]} rooms a plain id: from now on
   * @param {{timeoutMs?: number}} [options]
   * @returns {Promise<(Heard | Refused)[]>}
   */
  subscribe(rooms, { timeoutMs } = {}) {
    return this.#subscribe([rooms].flat().map(position), false, timeoutMs);
  }

  /** Hears every room that the user is a member of, now and later. @param {{timeoutMs?: number}} [options] */
  subscribeAll({ timeoutMs } = {}) {
    return this.#subscribe([], true, timeoutMs);
  }

  async #subscribe(positions, all, timeoutMs = this.#settings.requestTimeoutMs) {
    this.#refuseAfterEnd();
    return this.#session.subscriptions.subscribe(positions, all, timeoutMs);
  }

  /** No longer hears rooms. @param {string | string[]} rooms */
  unsubscribe(rooms) {
    this.#session.subscriptions.unsubscribe([rooms].flat());
  }

  /**
   * Says something. It is written again, under the same client id, until it is acknowledged, refused or out of time; sends
   * to one room are stored in the order of the calls.
   * @param {string} room
   * @param {unknown} body a string, bytes, or another JSON value
   * @param {{type?: string, clientId?: string, timeoutMs?: number}} [options]
   * @returns {Promise<Ack>} rejects with a {@link SendError}
   */
  async send(room, body, { type = "text", clientId = randomId(), timeoutMs } = {}) {
    const { outbox } = this.#session;
    const refuse = (code, text) => new SendError(code, text, { clientId, maybeStored: false, retryable: code !== "closed" });
    if (this.#session.ended) throw refuse("closed", "the client has ended");
    if (outbox.size >= this.#settings.maxPending) throw refuse("too_many_pending", "too many sends are waiting");
    const frame = { op: "send", room, client_id: clientId, type, ...encodeBody(body) };
    const deadline = this.#settings.environment.now() + (timeoutMs ?? this.#settings.sendTimeoutMs);
    return new Promise((resolve, reject) => {
      outbox.push({ room, clientId, frame, deadline, resolve, reject });
      this.#session.pump();
    });
  }

  /**
   * Says something that is not stored: heard by those who are there, at most once.
   * @param {string} room @param {string} type "typing", … @param {unknown} [body]
   */
  async signal(room, type, body = "") {
    await this.#request({ op: "signal", room, type, ...encodeBody(body) });
  }

  /**
   * Reads the log: after a seq, the oldest first; before a seq, the newest of them; with neither, the latest.
   * @param {string} room
   * @param {{after?: number, before?: number, limit?: number}} [part]
   * @returns {Promise<HistoryPage>} messages ascending by seq
   */
  async history(room, { after, before, limit } = {}) {
    const page = await this.#request({ op: "history", room, after, before, limit });
    const messages = (page.messages ?? []).map((message) => readMessage(message, room));
    return { room, epoch: page.epoch, head: page.head, truncated: page.truncated ?? null, messages };
  }

  /** Everything up to `seq` has been read. @param {string} room @param {number} seq @returns {Promise<ReadState>} */
  async read(room, seq) {
    return readState(await this.#request({ op: "read", room, seq }));
  }

  /** Ends for good. Sends that are not acknowledged are rejected. */
  close() {
    this.#session.end({ code: 1000, reason: "closed by the application" });
  }

  #request(frame) {
    this.#refuseAfterEnd();
    return this.#session.request(frame, this.#settings.requestTimeoutMs);
  }

  #refuseAfterEnd() {
    if (this.#session.ended) throw new RequestError("closed", "the client has ended");
  }
}

/** Random enough to be nobody else's; also where `crypto.randomUUID` is missing (pages that were not served securely). */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
