// The rows of the table. A row belongs to one key for as long as it is shown, so what has the focus or is pointed at never
// turns into another key: while something in the table is focused or pointed at, rows stay where they are.

import { number } from "./chart.js";

const SVG = "http://www.w3.org/2000/svg";
// A service of several tenants says whose a key is.
const DEFAULT_TENANT = "default";
const tenantOf = (key) => (key.tenant && key.tenant !== DEFAULT_TENANT ? key.tenant : "");
const nameOf = (key) => JSON.stringify([key.tenant, key.key, key.algorithm, key.quota]);

// Characters that show nothing, or turn the text around, are written as codes.
export const readable = (text) =>
  text.replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

export function duration(seconds) {
  if (seconds <= 0) return "";
  if (seconds < 1) return `${Math.ceil(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function cell(kind, tag = "td") {
  const made = document.createElement(tag);
  made.className = kind;
  // Said although a cell is one, since the narrow layout takes that away in some browsers.
  made.setAttribute("role", tag === "th" ? "rowheader" : "cell");
  return made;
}

class Row {
  constructor(key, onReset) {
    this.key = key;
    this.element = document.createElement("tr");
    this.element.setAttribute("role", "row");
    const head = cell("", "th");
    head.scope = "row";
    const about = document.createElement("small");
    const quota = key.quota || (key.limit === null ? "" : `limit ${number(key.limit)}`);
    const whose = tenantOf(key);
    about.textContent = [readable(quota), key.algorithm.replaceAll("_", " "), whose && `tenant ${whose}`]
      .filter(Boolean)
      .join(", ");
    head.append(readable(key.key), about);
    this.admittedRate = cell("number admitted");
    this.deniedRate = cell("number denied");
    this.admitted = cell("number extra");
    this.denied = cell("number extra");
    this.remaining = cell("");
    this.text = document.createElement("span");
    this.bar = document.createElementNS(SVG, "svg");
    this.bar.setAttribute("class", "bar");
    this.bar.setAttribute("viewBox", "0 0 100 8");
    this.bar.setAttribute("preserveAspectRatio", "none");
    this.bar.setAttribute("aria-hidden", "true");
    const ground = document.createElementNS(SVG, "rect");
    this.left = document.createElementNS(SVG, "rect");
    for (const rect of [ground, this.left]) rect.setAttribute("height", "8");
    ground.setAttribute("width", "100");
    this.bar.append(ground, this.left);
    this.remaining.append(this.text, this.bar);
    this.waiting = cell("number extra");
    this.full = cell("number extra");
    const action = cell("");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Reset";
    button.setAttribute("aria-label", `Reset ${readable(key.key)}`);
    button.addEventListener("click", () => onReset(this.key));
    if (!key.quota) {
      button.disabled = true;
      button.title = "Its quota is not known here, so it cannot be reset.";
    }
    action.append(button);
    this.element.append(
      head, this.admittedRate, this.deniedRate, this.admitted, this.denied, this.remaining, this.waiting, this.full, action,
    );
  }

  show(key, rates) {
    this.key = key;
    for (const [place, rate] of [[this.admittedRate, rates?.admitted], [this.deniedRate, rates?.denied]]) {
      place.textContent = rate === undefined ? "–" : number(rate);
      place.classList.toggle("some", rate > 0);
    }
    this.admitted.textContent = key.admitted === null ? "–" : number(key.admitted);
    this.denied.textContent = key.denied === null ? "–" : number(key.denied);
    const known = key.remaining !== null && key.limit > 0;
    const share = known ? Math.min(Math.max(key.remaining / key.limit, 0), 1) : 0;
    this.text.textContent = known ? `${number(key.remaining)} of ${number(key.limit)}` : "–";
    this.left.setAttribute("width", (share * 100).toFixed(1));
    this.left.setAttribute("class", share < 0.25 ? "left low" : "left");
    this.bar.toggleAttribute("hidden", !known);
    this.waiting.textContent = key.waiting ? number(key.waiting) : "";
    this.full.textContent = duration(key.reset_after);
  }
}

export class Table {
  constructor(body, onReset) {
    this.body = body;
    this.onReset = onReset;
    this.rows = new Map();
    this.before = null; // the snapshot before: its instant and the counts of its keys
  }

  show(snapshot) {
    const seconds = this.before ? snapshot.now - this.before.now : 0;
    const counts = new Map();
    const shown = [];
    for (const key of snapshot.keys) {
      const name = nameOf(key);
      const old = this.before?.counts.get(name);
      counts.set(name, key);
      let row = this.rows.get(name);
      if (!row) this.rows.set(name, (row = new Row(key, this.onReset)));
      row.show(key, seconds > 0 && old ? rates(old, key, seconds) : undefined);
      shown.push(row.element);
    }
    for (const [name, row] of this.rows) {
      if (!counts.has(name) && !row.element.contains(document.activeElement)) {
        row.element.remove();
        this.rows.delete(name);
      }
    }
    this.before = { now: snapshot.now, counts };
    return this.order(shown);
  }

  // Whether the rows keep their places, although their order is another by now.
  order(shown) {
    if (this.body.contains(document.activeElement) || this.body.matches(":hover")) {
      this.body.append(...shown.filter((element) => !element.isConnected));
      return shown.some((element, place) => this.body.children[place] !== element);
    }
    shown.forEach((element, place) => {
      if (this.body.children[place] !== element) this.body.insertBefore(element, this.body.children[place] ?? null);
    });
    return false;
  }

  forget() {
    this.before = null;
  }
}

function rates(old, key, seconds) {
  if (key.admitted === null || key.admitted < old.admitted || key.denied < old.denied) return undefined;
  return { admitted: (key.admitted - old.admitted) / seconds, denied: (key.denied - old.denied) / seconds };
}
