// How far each room has come: what makes delivery ordered and once, whichever connection a message arrives on.
//
// While a client moves, two connections ("lanes" 0 and 1) deliver the same rooms. Each is contiguous from the position it
// was resumed at; together they are merged by (epoch, seq). A connection whose node has not heard yet that the store lost
// its tail may still deliver what was taken back, so what it says counts only once it has reached the newer epoch.

/** @typedef {0 | 1} Lane */
/** @typedef {{room: string, epoch?: number, seq?: number | null}} Position `seq` left out: from now on; 0: from the beginning */
/** @typedef {{verdict: "deliver" | "repeat" | "stale" | "not_heard" | "gap" | "gap_again" | "repairing", keep?: number}} Judged */

class Room {
  constructor(seq, epoch) {
    /** The last seq handed over; null: from now on, and the head is not known yet. */
    this.seq = seq;
    /** The epoch of what was handed over. */
    this.epoch = epoch;
    /** Per lane: whether the room was asked for on it. */
    this.asked = [false, false];
    /** Per lane: the epoch its node is known to be in. */
    this.seen = [0, 0];
    /** Per lane: the epoch of the position it started from, and of what it delivered since. */
    this.content = [0, 0];
    /** Per lane: how far it has come by itself; null: not known. What it leaves out, the other must not hide. */
    this.reached = [null, null];
    /** Per lane: asked for again because something was missing, and whether that was answered. @type {({answered: boolean} | null)[]} */
    this.repair = [null, null];
    /**
     * Per lane: the greatest epoch that the other lane's node has left for an older one, as the log itself was set back. What
     * this lane brings of epochs up to it is stale, although they are greater than the one in force. 0: none.
     */
    this.takenBack = [0, 0];
  }

  /** Whether an epoch that a lane is in or was in lies in a past that the room has left. */
  isPast(lane, epoch) {
    return epoch < this.epoch || (epoch > this.epoch && epoch <= this.takenBack[lane]);
  }

  advance(lane, alone, seq) {
    const seen = this.seen[lane];
    this.content[lane] = seen;
    this.epoch = alone ? seen : Math.max(this.epoch, seen);
    this.seq = seq;
    this.reach(lane, seq);
  }

  /** A lane has come on by itself. */
  reach(lane, seq) {
    this.reached[lane] = Math.max(this.reached[lane] ?? 0, seq);
    this.repair[lane] = null;
  }

  /** What arrives on a lane belongs to before the question, until that is answered. */
  repairing(lane) {
    return this.repair[lane]?.answered === false;
  }

  gap(lane) {
    if (this.repair[lane]) return "gap_again";
    this.repair[lane] = { answered: false };
    return "gap";
  }
}

export class Rooms {
  /** @param {Position[]} positions @param {boolean} all every room of the user is heard, also those not named here */
  constructor(positions, all) {
    /** @type {Map<string, Room>} */
    this.rooms = new Map();
    this.all = all;
    /** Under `all`: rooms that the application does not want to hear. */
    this.unwanted = new Set();
    /** Under `all`: rooms that the user has left; late messages from a lane behind must not revive them. */
    this.left = new Set();
    /** Under `all`: rooms that the server has begun to deliver, and of which nothing has come. */
    this.begun = new Set();
    /** Of these, those that were begun on connections that are no more. */
    this.inDoubt = new Set();
    for (const position of positions) this.want(position);
  }

  /** The application asks for a room. A room that is heard already keeps its place and is asked for again. */
  want({ room: id, epoch = 0, seq = null }) {
    this.unwanted.delete(id);
    this.left.delete(id);
    const room = this.rooms.get(id) ?? new Room(seq, epoch);
    room.asked = [false, false];
    this.rooms.set(id, room);
  }

  wantAll() {
    this.all = true;
    this.unwanted.clear();
  }

  /** The application no longer wants a room. */
  unwant(id) {
    this.rooms.delete(id);
    this.#settle(id);
    if (this.all) this.unwanted.add(id);
  }

  /** The server says that the room is not heard any more. */
  leave(id) {
    if (this.all) this.left.add(id);
    this.#settle(id);
    return this.rooms.delete(id);
  }

  /** The server says that the user is a member of the room now; `begun`: and that it is delivered from now on. */
  join(id, begun) {
    this.left.delete(id);
    if (begun && this.all && !this.rooms.has(id)) this.begun.add(id);
  }

  /** It shows where the room stands, or that it is heard no more. */
  #settle(id) {
    this.begun.delete(id);
    this.inDoubt.delete(id);
  }

  /** All rooms of the user have been told, and these stayed away of those that were begun before. */
  missing() {
    const missing = [...this.inDoubt];
    for (const id of missing) this.#settle(id);
    return missing;
  }

  /** A connection takes a lane anew: nothing is known of its node. `alone`: there is no other. */
  open(lane, alone) {
    for (const room of this.rooms.values()) {
      room.asked[lane] = false;
      room.seen[lane] = 0;
      room.content[lane] = 0;
      room.reached[lane] = null;
      room.repair[lane] = null;
      room.takenBack[lane] = 0;
    }
    if (alone) {
      this.left.clear();
      this.inDoubt = new Set(this.begun);
    }
  }

  /** The positions of rooms that were not asked for on a lane yet. They count as asked from now on. */
  ask(lane) {
    return [...this.rooms].filter(([, room]) => !room.asked[lane]).map(([id]) => this.askAgain(lane, id));
  }

  /** These were not asked for on a lane after all. */
  notAsked(lane, ids) {
    for (const id of ids) {
      const room = this.rooms.get(id);
      if (room) room.asked[lane] = false;
    }
  }

  /** The position of one room, to ask for it (again) on a lane. */
  askAgain(lane, id) {
    const room = this.rooms.get(id);
    if (!room) return null;
    room.asked[lane] = true;
    return room.seq === null ? { room: id } : { room: id, epoch: room.epoch, seq: room.seq };
  }

  /** Where every room stands that has a place, to resume from after a restart. */
  positions() {
    return [...this.rooms]
      .filter(([, room]) => room.seq !== null)
      .map(([id, room]) => ({ room: id, epoch: room.epoch, seq: room.seq }));
  }

  /**
   * A subscription was accepted. `late`: the client has been connected before, so a room that turns up now was joined
   * while it was away, and everything since `joined` is wanted. `asked`: the position that was asked for; what the lane
   * brings from now on follows it, whatever it brought before.
   * @returns {{after: number, fetch: boolean, unwanted: boolean}} messages after `after` follow; `fetch`: ask for the room
   *   again from there; `unwanted`: unsubscribe
   */
  subscribed(lane, late, id, epoch, head, joined, asked) {
    let room = this.rooms.get(id);
    if (this.unwanted.has(id) || !(this.all || room)) return { after: head, fetch: false, unwanted: true };
    this.left.delete(id);
    this.#settle(id);
    const isNew = !room;
    if (!room) {
      room = new Room(late ? Math.min(joined, head) : head, epoch);
      this.rooms.set(id, room);
    }
    room.asked[lane] = true;
    room.seen[lane] = Math.max(room.seen[lane], epoch);
    if (asked || room.reached[lane] === null) {
      room.content[lane] = asked?.epoch || epoch;
      room.reached[lane] = asked?.seq ?? head;
    }
    if (asked) room.takenBack[lane] = 0;
    if (asked && room.repair[lane]) room.repair[lane].answered = true;
    if (room.seq === null) {
      room.seq = head;
      room.epoch = epoch;
    }
    return { after: room.seq, fetch: isNew && room.seq < head, unwanted: false };
  }

  /**
   * A message arrived on a lane; `alone`: the other lane has no connection. The place moves with what is delivered.
   * `keep`: the log beyond it was taken back without a word; say so first.
   * @returns {Judged}
   */
  message(lane, alone, message) {
    let room = this.rooms.get(message.room);
    if (!room) {
      if (!this.all || this.unwanted.has(message.room) || this.left.has(message.room)) return { verdict: "not_heard" };
      this.#settle(message.room);
      room = new Room(null, message.epoch);
      this.rooms.set(message.room, room);
    }
    if (room.repairing(lane)) return { verdict: "repairing" };
    room.seen[lane] = Math.max(room.seen[lane], message.epoch);
    // It lives in a past that the other has left. Left alone with it, ask where the log stands now.
    const past = room.isPast(lane, room.seen[lane]);
    const reached = room.reached[lane];
    if ((past && alone) || (reached !== null && message.seq > reached + 1)) return { verdict: room.gap(lane) };
    room.reach(lane, message.seq);
    if (past) return { verdict: "stale" };
    const had = room.seq;
    if (had !== null && message.seq <= had) {
      if (message.epoch <= room.epoch || room.epoch === 0) return { verdict: "repeat" };
      room.advance(lane, alone, message.seq);
      return { verdict: "deliver", keep: message.seq - 1 };
    }
    if (had !== null && message.seq > had + 1) return { verdict: room.gap(lane) };
    room.advance(lane, alone, message.seq);
    return { verdict: "deliver" };
  }

  /** The server says that the log ends at `seq` now. True: the application had more and must be told. */
  reset(lane, alone, id, epoch, seq) {
    const room = this.rooms.get(id);
    if (!room) return false;
    // What was asked for again comes with its own resets.
    if (room.repairing(lane)) return false;
    const content = room.content[lane];
    room.content[lane] = epoch;
    room.reached[lane] = seq;
    room.repair[lane] = null;
    // A lane that was in the room's epoch and is in an older one now: the log itself was set back.
    const outdated = room.isPast(lane, content);
    const setBack = epoch < room.epoch && !outdated;
    room.seen[lane] = epoch;
    if (room.isPast(lane, epoch) && !setBack) return false;
    if (setBack) room.takenBack[1 - lane] = Math.max(room.takenBack[1 - lane], room.epoch);
    room.takenBack[lane] = 0;
    // The other lane brought this news before and has gone on since: this lane will repeat what came after.
    const oldNews = !alone && epoch === room.epoch && outdated;
    const had = room.seq;
    if (oldNews && had !== null && seq < had) return false;
    room.epoch = epoch;
    if (had === null || seq < had) room.seq = seq;
    return had !== null && seq < had;
  }

  /** The server says that `from..to` is gone. What of it the application had not yet is returned, else null. */
  truncated(lane, alone, id, from, to) {
    const room = this.rooms.get(id);
    if (!room || room.repairing(lane) || (!alone && room.isPast(lane, room.seen[lane]))) return null;
    room.reach(lane, to);
    const had = room.seq;
    if (had !== null && (to <= had || from > had + 1)) return null;
    room.advance(lane, alone, to);
    return had === null ? null : { from: had + 1, to };
  }
}
