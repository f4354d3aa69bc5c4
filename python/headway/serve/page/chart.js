// One line over the last two minutes, as SVG: a value a second, its own scale, and words for who does not see it.

const SVG = "http://www.w3.org/2000/svg";
export const SECONDS = 120;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The next of 1, 2, 5, 10, 20, 50 … above a value.
export function niceCeiling(value) {
  if (!(value > 1)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export const number = (value) =>
  value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });

// Numbers of an axis, short: 1500 is 1.5K.
const short = (value) => value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });

export class Chart {
  constructor(place, what) {
    this.place = place;
    this.what = what;
    this.samples = []; // { at: seconds, value: a number, or null where the service was silent }
    new ResizeObserver(() => this.draw()).observe(place);
  }

  add(at, value) {
    this.samples.push({ at, value });
    while (this.samples.length && this.samples[0].at < at - SECONDS) this.samples.shift();
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (!width || !height || !this.samples.length) return;
    const left = 44, right = width - 6, top = 10, bottom = height - 20;
    const values = this.samples.map((sample) => sample.value).filter((value) => value !== null);
    const highest = values.length ? Math.max(...values) : 0;
    const most = niceCeiling(highest);
    const end = this.samples[this.samples.length - 1].at;
    const x = (at) => right - ((end - at) / SECONDS) * (right - left);
    const y = (value) => bottom - (value / most) * (bottom - top);

    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const value of [0, most / 2, most]) {
      svg.append(
        element("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
        element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
      );
    }
    svg.append(
      element("text", { x: left, y: height - 4 }, "2 min ago"),
      element("text", { x: right, y: height - 4, "text-anchor": "end" }, "now"),
    );
    for (const run of this.runs()) {
      const points = run.map((sample) => `${x(sample.at).toFixed(1)},${y(sample.value).toFixed(1)}`);
      const first = x(run[0].at).toFixed(1), last = x(run[run.length - 1].at).toFixed(1);
      svg.append(
        element("polygon", { class: "under", points: `${first},${bottom} ${points.join(" ")} ${last},${bottom}` }),
        element("polyline", { class: "trace", points: points.join(" ") }),
      );
    }
    this.place.replaceChildren(svg);
    const now = values.length ? values[values.length - 1] : 0;
    this.place.setAttribute(
      "aria-label",
      `${this.what} a second in the last two minutes: now ${number(now)}, at most ${number(highest)}.`,
    );
  }

  // The samples between silences.
  runs() {
    const runs = [];
    let run = [];
    for (const sample of this.samples) {
      if (sample.value !== null) {
        run.push(sample);
      } else if (run.length) {
        runs.push(run);
        run = [];
      }
    }
    if (run.length) runs.push(run);
    return runs;
  }
}
