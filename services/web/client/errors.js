// What a caller is told when something was not done.

/**
 * A request that was not carried out. `code` is one of the protocol's error codes (`docs/protocol.md`) or one of the
 * client's own: `timeout`, `not_connected`, `closed`, `too_many_pending`.
 */
export class RequestError extends Error {
  /**
   * @param {string} code
   * @param {string} text
   * @param {{retryable?: boolean, field?: string}} [more]
   */
  constructor(code, text, more = {}) {
    super(text);
    this.name = "RequestError";
    /** Which of the documented codes. */
    this.code = code;
    /** Whether the same request may succeed later. */
    this.retryable = more.retryable ?? false;
    /** The field at fault, where there is one. */
    this.field = more.field;
  }

  /** From the `error` object of a frame. */
  static fromFrame(error) {
    return new RequestError(String(error?.code ?? "internal"), String(error?.text ?? ""), {
      retryable: error?.retryable === true,
      field: error?.field,
    });
  }
}

/** A send that was not acknowledged. Sending again with the same `clientId` stores it once. */
export class SendError extends RequestError {
  /**
   * @param {string} code
   * @param {string} text
   * @param {{clientId: string, maybeStored: boolean, retryable?: boolean, field?: string}} more
   */
  constructor(code, text, more) {
    super(code, text, more);
    this.name = "SendError";
    /** The id under which it may be sent again. */
    this.clientId = more.clientId;
    /** An attempt was written and nothing said that it was not stored, also where a later one was refused. */
    this.maybeStored = more.maybeStored;
  }
}
