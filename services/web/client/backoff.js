// How long to wait before trying again: exponential with full jitter, so that many clients that failed together do not
// return together.

export class Backoff {
  /**
   * @param {number} baseMs the upper end of the first wait
   * @param {number} maxMs the upper end of every wait
   */
  constructor(baseMs, maxMs) {
    this.baseMs = baseMs;
    this.maxMs = maxMs;
  }

  /**
   * @param {number} attempt 0: the first that follows a failure
   * @param {number} random uniform in [0, 1)
   * @returns {number} milliseconds
   */
  delay(attempt, random) {
    return Math.min(this.maxMs, this.baseMs * 2 ** Math.min(attempt, 31)) * random;
  }
}
