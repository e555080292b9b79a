// A roofline (Williams, Waterman and Patterson 2009): speed against operations per byte, both logarithmic, below a roof that
// memory slopes and arithmetic levels. Every point has its name beside it; names never lie on each other or on points.

import { escapeMarkup } from "./markup.ts";
import { colourClass, drawn, type Place, round, short } from "./plot.ts";

export interface RooflinePoint {
  readonly name: string;
  /** Operations per byte. */
  readonly intensity: number;
  /** Billions of operations a second. */
  readonly gigaflops: number;
  /** Number of the colour: that of the roof it stands under. */
  readonly colour: number;
}

export interface Roof {
  readonly name: string;
  readonly gigaflops: number;
}

export interface Roofline {
  readonly title: string;
  /** Billions of bytes a second. */
  readonly gigabytes: number;
  /** The roofs that arithmetic levels, in the order of colours. */
  readonly roofs: readonly Roof[];
  readonly points: readonly RooflinePoint[];
}

const width = 900;
const height = 540;

/** The plot as SVG for a page. */
export function rooflinePlot({ title, gigabytes, roofs, points }: Roofline): string {
  const highest = Math.max(...roofs.map(({ gigaflops }) => gigaflops));
  const ridge = highest / gigabytes;
  const intensities = [...points.map(({ intensity }) => intensity), ridge];
  const [low, high] = [Math.min(...intensities) / 4, Math.max(...intensities) * 2];
  // Of the slope only as much as the points need.
  const lowest = Math.min(highest / 10, ...points.map(({ gigaflops }) => gigaflops / 2));
  /** Where the slope comes into the drawing. */
  const start = Math.max(low, lowest / gigabytes);
  return drawn(
    {
      title,
      x: { label: "operations per byte", log: true },
      y: { label: "GFLOP/s", log: true },
      width,
      height,
    },
    {
      kind: "Roofline",
      summary: points
        .map(({ name, intensity, gigaflops }) => `${name}: ${short(gigaflops)} at ${short(intensity)}.`)
        .join(" "),
      legend: roofs.map(({ name, gigaflops }, colour) => ({
        label: `${name}: ${short(gigaflops)} GFLOP/s, ${short(gigabytes)} GB/s`,
        swatch: `<line class="line ${colourClass(colour)}" x1="0" x2="18" y1="-4" y2="-4"/>`,
      })),
      xs: [low, high],
      ys: [lowest, highest * 1.4],
      marks: (toX, toY) => [
        ...roofs.map((roof, colour) => roofMark(roof, colour, { gigabytes, low: start, high }, toX, toY)),
        ...pointMarks(points, {
          left: toX(low),
          right: toX(high),
          top: toY(highest * 1.4),
          bottom: toY(lowest),
          toX,
          toY,
          obstacles: roofs.flatMap(({ gigaflops }) =>
            roofBoxes(gigaflops, { gigabytes, low, high }, toX, toY),
          ),
        }),
      ],
    },
  );
}

function roofMark(
  { gigaflops }: Roof,
  colour: number,
  { gigabytes, low, high }: { gigabytes: number; low: number; high: number },
  toX: Place,
  toY: Place,
): string {
  const corners = [
    [low, gigabytes * low],
    [gigaflops / gigabytes, gigaflops],
    [high, gigaflops],
  ];
  const path = corners.map(([x, y]) => `${round(toX(x))},${round(toY(y))}`).join("L");
  return `<path class="line ${colourClass(colour)}" d="M${path}"/>`;
}

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

const overlap = (a: Box, b: Box) =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

const radius = 4;
const labelHeight = 14;
const labelWidth = (name: string) => 6.6 * [...name].length + 2;

interface Area {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly toX: Place;
  readonly toY: Place;
  /** Where no name may stand. */
  readonly obstacles: readonly Box[];
}

/** A roof as boxes that names keep away from. */
function roofBoxes(
  gigaflops: number,
  { gigabytes, low, high }: { gigabytes: number; low: number; high: number },
  toX: Place,
  toY: Place,
): Box[] {
  const ridge = gigaflops / gigabytes;
  const flat = { x: toX(ridge), y: toY(gigaflops) - 2, width: toX(high) - toX(ridge), height: 4 };
  const steps = 60;
  const slope = Array.from({ length: steps }, (_, i): Box => {
    const [from, to] = [i / steps, (i + 1) / steps].map((share) => low * (ridge / low) ** share);
    const [top, bottom] = [toY(gigabytes * to), toY(gigabytes * from)];
    return { x: toX(from), y: top, width: toX(to) - toX(from), height: bottom - top };
  });
  return [flat, ...slope];
}

/** Points, names, and lines from names that had to stand apart. */
function pointMarks(points: readonly RooflinePoint[], area: Area): string[] {
  const { toX, toY } = area;
  const centres = points.map(({ intensity, gigaflops }) => ({ x: toX(intensity), y: toY(gigaflops) }));
  const taken: Box[] = [
    ...area.obstacles,
    ...centres.map(({ x, y }) => ({
      x: x - radius - 1,
      y: y - radius - 1,
      width: 2 * radius + 2,
      height: 2 * radius + 2,
    })),
  ];
  const [names, lines, dots]: string[][] = [[], [], []];
  // From the top right, where points crowd below the roof, so that those get the places beside them.
  const order = points.map((_, i) => i).sort((a, b) => points[b].gigaflops - points[a].gigaflops);
  for (const i of order) {
    const { name, intensity, gigaflops, colour } = points[i];
    const { x, y } = centres[i];
    const box = placeFor(name, x, y, taken, area);
    taken.push(box);
    const end = {
      x: Math.max(box.x, Math.min(x, box.x + box.width)),
      y: Math.max(box.y + 2, Math.min(y, box.y + box.height - 2)),
    };
    if (Math.hypot(end.x - x, end.y - y) > 2 * radius + 4) {
      lines.push(
        `<line class="axis" x1="${round(x)}" y1="${round(y)}" x2="${round(end.x)}" y2="${round(end.y)}"/>`,
      );
    }
    const about = escapeMarkup(
      `${name}: ${short(gigaflops)} GFLOP/s at ${short(intensity)} operations per byte`,
    );
    dots.push(
      `<circle class="dot ${colourClass(colour)}" cx="${round(x)}" cy="${round(y)}" r="${radius}"><title>${about}</title></circle>`,
    );
    names.push(
      `<text class="name ${colourClass(colour)}" x="${round(box.x + 1)}" y="${round(box.y + 11)}">${escapeMarkup(name)}</text>`,
    );
  }
  return [...lines, ...dots, ...names];
}

/** The nearest free place for a name around its point. */
function placeFor(name: string, x: number, y: number, taken: readonly Box[], area: Area): Box {
  const size = { width: labelWidth(name), height: labelHeight };
  const { left, right, top, bottom } = area;
  for (let distance = 8; distance < 400; distance += 4) {
    for (let turn = 0; turn < 16; turn++) {
      // To the right first, then to both sides of it.
      const angle = ((turn % 2 === 0 ? 1 : -1) * Math.ceil(turn / 2) * Math.PI) / 8;
      const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
      const box: Box = {
        x: x + dx * distance + (dx > 0.3 ? 0 : dx < -0.3 ? -size.width : -size.width / 2),
        y: y + dy * distance - size.height / 2,
        ...size,
      };
      const inside =
        box.x >= left && box.x + box.width <= right && box.y >= top && box.y + box.height <= bottom;
      if (inside && !taken.some((other) => overlap(box, other))) return box;
    }
  }
  return { x: x + 8, y: y - labelHeight / 2, ...size }; // more names than room: better on each other than absent
}
