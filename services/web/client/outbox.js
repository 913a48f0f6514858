// Sends on their way: in order per room, several in flight, and written again under the same client id until they are
// acknowledged, refused or out of time.

import { mayBeStored } from "./codec.js";
import { RequestError, SendError } from "./errors.js";

/**
 * @typedef {object} Entry
 * @property {number} order
 * @property {string} room
 * @property {string} clientId
 * @property {object} frame without its number
 * @property {number} deadline
 * @property {(ack: object) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {number} attempts
 * @property {boolean} uncertain an attempt may have been stored
 * @property {RequestError} [lastError]
 * @property {number} lostAt in flight: when the attempt counts as lost
 */

export class Outbox {
  /** @param {{inFlight: number, inFlightPerRoom: number, attemptTimeoutMs: number, backoff: import("./backoff.js").Backoff}} limits */
  constructor(limits) {
    this.limits = limits;
    this.nextOrder = 0;
    /** In order. @type {Entry[]} */
    this.waiting = [];
    /** By request number. @type {Map<number, Entry>} */
    this.flights = new Map();
    /** In flight. @type {Map<string, number>} */
    this.perRoom = new Map();
    /**
     * Rooms in which an attempt failed: nothing is written to them before this time and before everything in flight there
     * is answered, so that order survives the retry. @type {Map<string, number>}
     */
    this.held = new Map();
    /**
     * Rooms in which a send was refused or lost and others wait: one at a time there, so that none overtakes another.
     * @type {Set<string>}
     */
    this.careful = new Set();
  }

  get size() {
    return this.waiting.length + this.flights.size;
  }

  /** @param {Pick<Entry, "room" | "clientId" | "frame" | "deadline" | "resolve" | "reject">} parcel */
  push(parcel) {
    this.waiting.push({ ...parcel, order: this.nextOrder++, attempts: 0, uncertain: false, lostAt: 0 });
  }

  /**
   * The next send to write; null: nothing may be written now.
   * @param {number} now
   * @param {() => number} number gives the request its number
   */
  next(now, number) {
    if (this.flights.size >= this.limits.inFlight) return null;
    this.#release(now);
    const limit = (room) => (this.careful.has(room) ? 1 : this.limits.inFlightPerRoom);
    const writable = ({ room }) => !this.held.has(room) && (this.perRoom.get(room) ?? 0) < limit(room);
    const at = this.waiting.findIndex(writable);
    if (at < 0) return null;
    const [entry] = this.waiting.splice(at, 1);
    entry.attempts += 1;
    entry.lostAt = now + this.limits.attemptTimeoutMs;
    const req = number();
    this.perRoom.set(entry.room, (this.perRoom.get(entry.room) ?? 0) + 1);
    this.flights.set(req, entry);
    return { ...entry.frame, req };
  }

  /** An acknowledgement, matched by number, or by client id where it answers an attempt that counted as lost. */
  acked(req, ack) {
    const entry = this.#land(req) ?? this.#late(ack.room, ack.clientId);
    entry?.resolve(ack);
  }

  #late(room, clientId) {
    const same = (entry) => entry.attempts > 0 && entry.room === room && entry.clientId === clientId;
    const at = this.waiting.findIndex(same);
    if (at >= 0) return this.waiting.splice(at, 1)[0];
    for (const [req, entry] of this.flights) {
      if (same(entry) && entry.attempts > 1) return this.#land(req);
    }
    return undefined;
  }

  /**
   * An error answer. False: no send has this number.
   * @param {number} req @param {RequestError} error @param {number} now @param {number} random
   */
  refused(req, error, now, random) {
    const entry = this.#land(req);
    if (!entry) return false;
    if (!error.retryable) {
      // What an answer says is true of its own attempt only: an earlier one may be stored, whatever ended since.
      const { retryable, field } = error;
      const { clientId, uncertain: maybeStored } = entry;
      entry.reject(new SendError(error.code, error.message, { clientId, maybeStored, retryable, field }));
      return true;
    }
    entry.uncertain ||= mayBeStored(error.code);
    entry.lastError = error;
    this.#hold(entry, now, random);
    return true;
  }

  /** The connection is gone: what was in flight is to be written again, in order. */
  disconnected() {
    for (const entry of this.flights.values()) {
      entry.uncertain = true;
      this.#wait(entry);
    }
    this.flights.clear();
    this.perRoom.clear();
    this.held.clear();
  }

  /** Ends what is out of time, and takes attempts back that nobody answered. */
  tick(now, random) {
    this.#release(now);
    for (const [req, entry] of [...this.flights]) {
      if (entry.lostAt > now && entry.deadline > now) continue;
      this.#land(req);
      entry.uncertain = true;
      this.#hold(entry, now, random);
    }
    const over = this.waiting.filter((entry) => entry.deadline <= now);
    this.waiting = this.waiting.filter((entry) => entry.deadline > now);
    for (const entry of over) entry.reject(outOfTime(entry));
  }

  /** When `tick` or `next` may have something to do; Infinity: never. */
  timer() {
    let at = Infinity;
    for (const entry of this.waiting) at = Math.min(at, entry.deadline);
    for (const entry of this.flights.values()) at = Math.min(at, entry.deadline, entry.lostAt);
    for (const [room, until] of this.held) if (!this.perRoom.has(room)) at = Math.min(at, until);
    return at;
  }

  /** Everything ends now. @param {string} text why */
  end(text) {
    this.disconnected();
    for (const entry of this.waiting) {
      entry.reject(new SendError("closed", text, { clientId: entry.clientId, maybeStored: entry.uncertain, retryable: true }));
    }
    this.waiting = [];
  }

  /** Rooms whose wait is over and in which nothing is in flight any more may be written to again. */
  #release(now) {
    for (const [room, until] of this.held) if (until <= now && !this.perRoom.has(room)) this.held.delete(room);
  }

  #hold(entry, now, random) {
    this.careful.add(entry.room);
    const until = now + this.limits.backoff.delay(entry.attempts - 1, random);
    this.held.set(entry.room, Math.max(this.held.get(entry.room) ?? 0, until));
    this.#wait(entry);
  }

  #wait(entry) {
    const behind = this.waiting.findIndex((other) => other.order > entry.order);
    this.waiting.splice(behind < 0 ? this.waiting.length : behind, 0, entry);
  }

  #land(req) {
    const entry = this.flights.get(req);
    if (!entry) return undefined;
    this.flights.delete(req);
    const left = (this.perRoom.get(entry.room) ?? 1) - 1;
    if (left > 0) this.perRoom.set(entry.room, left);
    else this.perRoom.delete(entry.room);
    if (left === 0 && !this.waiting.some(({ room }) => room === entry.room)) this.careful.delete(entry.room);
    return entry;
  }
}

/** @param {Entry} entry */
function outOfTime(entry) {
  const why = entry.lastError ? `: ${entry.lastError.message}` : "";
  const text = `not acknowledged in time${why}`;
  const code = entry.lastError?.code ?? "timeout";
  return new SendError(code, text, { clientId: entry.clientId, maybeStored: entry.uncertain, retryable: true });
}
