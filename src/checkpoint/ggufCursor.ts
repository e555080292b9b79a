// A place in a file that moves on as its numbers are read, through a small buffer. It never passes the file's end, and a
// count is believed only if so many things fit into what is left of the file.

import type { RunError } from "../errors.ts";
import { readFully } from "./readFile.ts";

const BUFFER_BYTES = 2 ** 16;

export class GgufCursor {
  /** Of the next byte in the file. */
  position = 0;
  readonly #descriptor: number;
  readonly #end: number;
  readonly #bad: (problem: string) => RunError;
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  readonly #view = new DataView(this.#buffer.buffer);
  /** The part of the file that the buffer holds. */
  #held = { begin: 0, end: 0 };

  /** @param end size of the file. @param bad makes the error for a problem. */
  constructor(descriptor: number, end: number, bad: (problem: string) => RunError) {
    this.#descriptor = descriptor;
    this.#end = end;
    this.#bad = bad;
  }

  /** Moves on by `length` bytes, at most the buffer's. @returns where they begin in it. */
  #take(length: number): number {
    const { begin, end } = this.#held;
    if (this.position < begin || this.position + length > end) {
      this.#checkLeft(length);
      const next = Math.min(this.position + BUFFER_BYTES, this.#end);
      const part = this.#buffer.subarray(0, next - this.position);
      if (!readFully(this.#descriptor, this.position, part))
        throw this.#bad("it became shorter while it was read");
      this.#held = { begin: this.position, end: next };
    }
    const at = this.position - this.#held.begin;
    this.position += length;
    return at;
  }

  #checkLeft(length: number): void {
    if (length > this.#end - this.position) throw this.#bad("it ends within its header");
  }

  skip(length: number): void {
    this.#checkLeft(length);
    this.position += length;
  }

  /** A copy of the next bytes, of which there must be fewer than 2^16. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#buffer.slice(at, at + length);
  }

  ascii(length: number): string {
    return String.fromCharCode(...this.bytes(length));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** @param what it is, for the message about a number that is not exact. */
  u64(what: string): number {
    const value = Number(this.#view.getBigUint64(this.#take(8), true));
    if (!Number.isSafeInteger(value)) throw this.#bad(`${what} is impossibly large`);
    return value;
  }

  /** How many things of at least `least` bytes each follow. @param most of them that are accepted. */
  count(things: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
    const value = Number(this.#view.getBigUint64(this.#take(8), true));
    if (value * least > this.#end - this.position)
      throw this.#bad(`there are fewer ${things} in it than the ${value} it promises`);
    if (value > most) throw this.#bad(`${value} ${things} are more than any model has`);
    return value;
  }

  /** A number or truth value by the code of its type in GGUF; 64-bit integers stay exact. */
  scalar(type: number, what: string): number | bigint | boolean {
    const view = this.#view;
    switch (type) {
      case 0:
        return view.getUint8(this.#take(1));
      case 1:
        return view.getInt8(this.#take(1));
      case 2:
        return view.getUint16(this.#take(2), true);
      case 3:
        return view.getInt16(this.#take(2), true);
      case 4:
        return view.getUint32(this.#take(4), true);
      case 5:
        return view.getInt32(this.#take(4), true);
      case 6:
        return view.getFloat32(this.#take(4), true);
      case 7: {
        const value = view.getUint8(this.#take(1));
        if (value > 1) throw this.#bad(`${what} is neither true nor false`);
        return value === 1;
      }
      case 10:
        return view.getBigUint64(this.#take(8), true);
      case 11:
        return view.getBigInt64(this.#take(8), true);
      default:
        return view.getFloat64(this.#take(8), true);
    }
  }
}
