// One room's messages on the page, in order of seq, followed by what is being sent. Whatever comes from other people enters
// the document as text and never as markup.

/** @typedef {import("/client/client.js").Message} Message */

/** More are not kept on the page; earlier ones can be loaded again. */
const MOST_SHOWN = 1_000;
/** So near to the end counts as being there, in pixels. */
const NEAR_END = 80;

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const DAY_AND_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export class Conversation {
  /** @param {{list: HTMLElement, scroller: HTMLElement, empty: HTMLElement, older: HTMLElement, latest: HTMLElement}} places */
  constructor(places) {
    this.places = places;
    places.scroller.addEventListener("scroll", () => {
      if (this.#atEnd()) places.latest.hidden = true;
    });
    places.latest.addEventListener("click", () => this.#toEnd());
    this.clear();
  }

  clear() {
    this.places.list.replaceChildren();
    /** @type {Map<string, HTMLElement>} what is being sent, by client id */
    this.pending = new Map();
    /** The user whose messages are one's own. */
    this.user = "";
    this.#tidy();
  }

  /** The smallest seq that is shown; Infinity where there is none. */
  get first() {
    const first = this.places.list.querySelector("[data-seq]");
    return first ? seqOf(first) : Infinity;
  }

  /** @param {Message} message */
  add(message) {
    const following = this.#atEnd();
    if (message.from === this.user) this.settle(message.clientId);
    if (!this.places.list.querySelector(`[data-seq="${Number(message.seq)}"]`)) {
      this.#place(message.seq, this.#entry(message));
    }
    this.#trim(following);
    this.#tidy();
    if (following) this.#toEnd();
    else this.places.latest.hidden = false;
  }

  /** Earlier messages, above what is shown; what one looks at stays where it is. @param {Message[]} messages */
  addEarlier(messages) {
    const { scroller } = this.places;
    const fromEnd = scroller.scrollHeight - scroller.scrollTop;
    const wasEmpty = this.first === Infinity;
    for (const message of messages) {
      if (!this.places.list.querySelector(`[data-seq="${Number(message.seq)}"]`)) this.#place(message.seq, this.#entry(message));
    }
    this.#tidy();
    if (wasEmpty) this.#toEnd();
    else scroller.scrollTop = scroller.scrollHeight - fromEnd;
  }

  /** A message on its way. @param {string} clientId @param {string} text */
  sending(clientId, text) {
    const entry = element("li", "message own pending");
    entry.append(element("div", "about", element("span", "state", "sending…")), element("p", "body", text));
    this.pending.set(clientId, entry);
    this.places.list.append(entry);
    this.#tidy();
    this.#toEnd();
  }

  /** It is stored, and shown as any other message. @param {string} clientId */
  settle(clientId) {
    this.pending.get(clientId)?.remove();
    this.pending.delete(clientId);
  }

  /** It was not stored as far as we know. @param {string} clientId @param {string} why @param {(() => void) | null} again */
  failed(clientId, why, again) {
    const entry = this.pending.get(clientId);
    if (!entry) return;
    entry.classList.replace("pending", "failed");
    entry.querySelector(".state").textContent = `not sent: ${why}`;
    if (!again) return;
    const retry = element("button", "retry", "Try again");
    retry.type = "button";
    retry.addEventListener("click", () => {
      entry.classList.replace("failed", "pending");
      entry.querySelector(".state").textContent = "sending…";
      retry.remove();
      again();
    });
    const following = this.#atEnd();
    entry.append(retry);
    if (following) this.#toEnd();
  }

  /** The room's log ends at `seq` now. @param {number} seq */
  forgetAfter(seq) {
    for (const entry of this.places.list.querySelectorAll("[data-seq]")) if (seqOf(entry) > seq) entry.remove();
    this.notice(seq, `The server had to take back what followed message #${seq}.`);
  }

  /** A sentence between messages, behind `seq`. @param {number} seq @param {string} text */
  notice(seq, text) {
    this.#place(seq, element("li", "notice", text));
  }

  #place(seq, entry) {
    entry.dataset.seq = String(seq);
    let behind = this.places.list.lastElementChild;
    while (behind && !(seqOf(behind) <= seq)) behind = behind.previousElementSibling;
    if (behind) behind.after(entry);
    else this.places.list.prepend(entry);
  }

  #entry(message) {
    const { from, type, time, seq } = message;
    if (type === "im.join" || type === "im.leave") return element("li", "notice", membership(message));
    if (type === "im.delete") return element("li", "notice", `The room was deleted by ${shownName(from)}`);
    const own = from === this.user;
    const entry = element("li", own ? "message own" : "message");
    entry.dataset.clientId = message.clientId;
    const clock = element("time", "", TIME.format(time));
    clock.dateTime = new Date(time).toISOString();
    clock.title = DAY_AND_TIME.format(time);
    const about = element("div", "about", element("span", "from", shownName(from)), clock, element("span", "seq", `#${seq}`));
    if (own) about.querySelector(".from").append(element("span", "unseen", " (you)"));
    entry.append(about, body(message));
    return entry;
  }

  #trim(following) {
    if (!following) return;
    const { list } = this.places;
    while (list.childElementCount > MOST_SHOWN) list.firstElementChild.remove();
  }

  #tidy() {
    const { list, empty, older } = this.places;
    empty.hidden = list.childElementCount > 0;
    older.hidden = !(this.first > 1 && this.first !== Infinity);
  }

  #atEnd() {
    const { scroller } = this.places;
    return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
  }

  #toEnd() {
    const { scroller, latest } = this.places;
    scroller.scrollTop = scroller.scrollHeight;
    latest.hidden = true;
  }
}

/** Guests are `guest:Their_name`. @param {string} user */
export function shownName(user) {
  return user.startsWith("guest:") ? user.slice("guest:".length).replaceAll("_", " ") : user || "server";
}

function membership({ type, from, body: change }) {
  const who = shownName(String(change?.user ?? from));
  const by = change?.by && change.by !== change.user ? ` (by ${shownName(String(change.by))})` : "";
  return type === "im.join" ? `${who} joined${by}` : `${who} left${by}`;
}

function body({ body: said, type }) {
  if (typeof said === "string") return element("p", "body", said);
  if (said instanceof Uint8Array) return element("p", "body code", `${type}: ${said.length} bytes`);
  return element("p", "body code", JSON.stringify(said, null, 2));
}

function seqOf(entry) {
  return entry.dataset.seq === undefined ? NaN : Number(entry.dataset.seq);
}

/** @param {string} tag @param {string} className @param {...(string | Node)} content text and nodes */
function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}
