/* Reads the page's data: base 64 of a deflated text (RFC 1951). Small and slow, and the same in every browser. */
function inflated(text) {
  const raw = atob(text.trim());
  let at = 0, held = 0, count = 0, size = 0, out = new Uint8Array(raw.length * 5 + 1024);
  const bits = (n) => {
    while (count < n) { held |= raw.charCodeAt(at++) << count; count += 8; }
    const value = held & ((1 << n) - 1);
    held >>>= n; count -= n;
    return value;
  };
  const put = (byte) => { if (size === out.length) { const more = new Uint8Array(size * 2); more.set(out); out = more; } out[size++] = byte; };
  /** Codes by length, in order: what a canonical Huffman code needs. */
  const tree = (lengths) => {
    const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
    for (const l of lengths) counts[l]++;
    counts[0] = 0;
    for (let i = 1; i < 16; i++) offsets[i] = offsets[i - 1] + counts[i - 1];
    lengths.forEach((l, i) => { if (l) symbols[offsets[l]++] = i; });
    return { counts, symbols };
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      const here = counts[length];
      if (code - here < first) return symbols[index + code - first];
      index += here; first = (first + here) << 1; code <<= 1;
    }
    throw new Error("the data of this page is damaged");
  };
  const LENGTHS = [], DISTANCES = [];
  for (let i = 0, v = 3; i < 28; i++) { const extra = i < 4 ? 0 : (i >> 2) - 1; LENGTHS.push([v, extra]); v += 1 << extra; }
  LENGTHS.push([258, 0]);
  for (let i = 0, v = 1; i < 30; i++) { const extra = i < 2 ? 0 : (i >> 1) - 1; DISTANCES.push([v, extra]); v += 1 << extra; }
  const fixed = () => [tree([...Array(288).keys()].map((i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))), tree(Array(30).fill(5))];
  const dynamic = () => {
    const nl = bits(5) + 257, nd = bits(5) + 1, nc = bits(4) + 4, order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    const short = Array(19).fill(0), lengths = [];
    for (let i = 0; i < nc; i++) short[order[i]] = bits(3);
    const codes = tree(short);
    while (lengths.length < nl + nd) {
      const s = symbol(codes);
      if (s < 16) { lengths.push(s); continue; }
      const [value, times] = s === 16 ? [lengths[lengths.length - 1], 3 + bits(2)] : [0, s === 17 ? 3 + bits(3) : 11 + bits(7)];
      for (let i = 0; i < times; i++) lengths.push(value);
    }
    return [tree(lengths.slice(0, nl)), tree(lengths.slice(nl))];
  };
  for (let last = 0; !last;) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = count = 0;
      const n = raw.charCodeAt(at) | (raw.charCodeAt(at + 1) << 8);
      at += 4;
      for (let i = 0; i < n; i++) put(raw.charCodeAt(at++));
      continue;
    }
    const [literals, distances] = kind === 1 ? fixed() : dynamic();
    for (;;) {
      const s = symbol(literals);
      if (s < 256) { put(s); continue; }
      if (s === 256) break;
      const [length, extra] = LENGTHS[s - 257], n = length + bits(extra), [distance, more] = DISTANCES[symbol(distances)], back = distance + bits(more);
      for (let i = 0; i < n; i++) put(out[size - back]);
    }
  }
  return new TextDecoder().decode(out.subarray(0, size));
}
if (typeof module !== "undefined") module.exports = { inflated };
