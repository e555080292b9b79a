// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that token strings in
// tokenizer.json hold neither white space nor control characters. Not here: any merging.

const characters: string[] = [];
const bytes = new Map<string, number>();

for (let byte = 0, unprintable = 0; byte < 256; byte++) {
  // Printable Latin-1 stands for itself; the other bytes take the code points from 256 upwards, in order.
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte !== 173);
  const character = String.fromCharCode(printable ? byte : 256 + unprintable++);
  characters.push(character);
  bytes.set(character, byte);
}

/** The character of each of the 256 bytes. */
export const BYTE_CHARACTERS: readonly string[] = characters;

/** Writes bytes in the byte-level alphabet. */
export function bytesToCharacters(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += characters[byte];
  return text;
}

/** The bytes that a string in the byte-level alphabet stands for; undefined if a character is not of the alphabet. */
export function charactersToBytes(text: string): Uint8Array | undefined {
  const data = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = bytes.get(text[i]);
    if (byte === undefined) return undefined;
    data[i] = byte;
  }
  return data;
}
