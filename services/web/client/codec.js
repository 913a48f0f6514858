// The native dialect's JSON frames: bodies, messages and close codes as the client shows them.

/** Codes after which a client must not come back by itself. All others, unknown ones too, mean: connect again. */
const FINAL_CLOSE_CODES = new Set([1002, 1007, 1009, 4001, 4002, 4006, 4010, 4011, 4012]);

export const CLOSE_REPLACED = 4010;
/** Closes that another token can cure. */
export const CREDENTIAL_CLOSE_CODES = new Set([4001, 4002]);
/** Errors that another token can cure. */
export const CREDENTIAL_ERROR_CODES = new Set(["unauthenticated", "token_expired"]);
/** Errors of a send that may be in the log all the same. */
const UNCERTAIN_ERROR_CODES = new Set(["unavailable", "not_replicated", "internal"]);

/** @param {number} code */
export function closeCodeReconnects(code) {
  return !FINAL_CLOSE_CODES.has(code);
}

/** @param {string} code */
export function mayBeStored(code) {
  return UNCERTAIN_ERROR_CODES.has(code);
}

/**
 * One frame as text. Lone surrogates, which no UTF-8 text can hold, become U+FFFD: JSON.stringify escapes exactly those.
 * @param {object} frame
 */
export function encodeFrame(frame) {
  return JSON.stringify(frame).replace(/\\(?:\\|u(d[89a-f][0-9a-f]{2}))/g, (all, lone) => (lone ? "\ufffd" : all));
}

/**
 * One frame from text; throws where it is none.
 * @param {unknown} data
 */
export function decodeFrame(data) {
  if (typeof data !== "string") throw new Error("a frame that is no text");
  const frame = JSON.parse(data);
  if (frame === null || typeof frame !== "object" || typeof frame.op !== "string") throw new Error("a frame without op");
  return frame;
}

/**
 * The field that carries a body: a string as text, bytes as base64, anything else as the JSON value it is.
 * @param {unknown} body
 */
export function encodeBody(body) {
  if (body instanceof ArrayBuffer) return { body_base64: toBase64(new Uint8Array(body)) };
  if (ArrayBuffer.isView(body)) {
    return { body_base64: toBase64(new Uint8Array(body.buffer, body.byteOffset, body.byteLength)) };
  }
  if (JSON.stringify(body) === undefined) throw new TypeError("a body must be a string, bytes or a JSON value");
  return { body };
}

/**
 * @param {{body?: unknown, body_base64?: string}} frame
 * @returns {unknown} a string, another JSON value, or a Uint8Array
 */
export function decodeBody(frame) {
  return typeof frame.body_base64 === "string" ? fromBase64(frame.body_base64) : frame.body;
}

/**
 * A message of a room's log.
 * @typedef {object} Message
 * @property {string} room
 * @property {number} epoch in force at this entry
 * @property {number} seq its place: 1, 2, 3, … without gap within the room
 * @property {string} id unique for ever
 * @property {string} from the user who said it
 * @property {string} clientId the sender's own id for it
 * @property {string} type "text", "image", …; "im.…" are the server's
 * @property {unknown} body a string, another JSON value, or a Uint8Array
 * @property {number} time when it was accepted, unix milliseconds
 */

/**
 * @param {any} frame
 * @param {string} [room] where the frame names none
 * @returns {Message}
 */
export function readMessage(frame, room) {
  return {
    room: frame.room ?? room,
    epoch: frame.epoch ?? 0,
    seq: frame.seq,
    id: frame.id,
    from: frame.from ?? "",
    clientId: frame.client_id ?? "",
    type: frame.type,
    body: decodeBody(frame),
    time: frame.time,
  };
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}
