// The page asks the service once a second and shows what it says. What is typed and chosen goes along with the next question.

import { Chart, number } from "./chart.js";
import { Problem, keys, reset, token } from "./service.js";
import { Table, readable } from "./table.js";

const INTERVAL = 1000, AT_MOST = 10000; // ms between two questions, and after many that failed
const SAID_AGAIN = 15000; // ms between two summaries for a screen reader
const SAID_FOR = 15000; // ms for which the page says that a key was reset

const find = (id) => document.getElementById(id);
const charts = {
  admitted: new Chart(find("admitted-chart"), "Admitted"),
  denied: new Chart(find("denied-chart"), "Denied"),
};
const table = new Table(find("rows"), askToReset);
let before = null; // the totals of the snapshot before
let failures = 0, paused = false, timer = 0, asking = false, again = false, summarised = 0;
let locked = false; // no question before there is another token
let chosen = null; // the key that may be reset

async function look() {
  clearTimeout(timer);
  if (asking) {
    again = true; // what was typed meanwhile counts
    return;
  }
  asking = true;
  again = locked = false;
  try {
    const snapshot = await keys(find("search").value.trim(), find("sort").value, find("limit").value);
    failures = 0;
    say("");
    show(snapshot);
  } catch (error) {
    failures += 1;
    fail(error);
  }
  asking = false;
  plan();
}

function plan() {
  clearTimeout(timer);
  if (paused || locked || document.hidden) return;
  timer = setTimeout(look, again ? 0 : Math.min(INTERVAL * 2 ** Math.max(0, failures - 1), AT_MOST));
}

function show(snapshot) {
  const seconds = before ? snapshot.now - before.now : 0;
  const rate = {};
  for (const name of ["admitted", "denied"]) {
    const grown = seconds > 0 ? snapshot[name] - before[name] : -1;
    rate[name] = grown >= 0 ? grown / seconds : null;
    if (before) charts[name].add(snapshot.now, rate[name]);
    find(`${name}-now`).textContent = rate[name] === null ? "–" : number(rate[name]);
  }
  before = { now: snapshot.now, admitted: snapshot.admitted, denied: snapshot.denied };
  const held = table.show(snapshot);
  const count = snapshot.total === 1 ? "1 key" : `${number(snapshot.total)} keys`;
  const searched = find("search").value.trim();
  find("caption").textContent =
    (searched ? `${count} with “${readable(searched)}” in the name` : count) +
    (snapshot.keys.length < snapshot.total ? `, the first ${number(snapshot.keys.length)} shown` : "") +
    (held ? ". Rows keep their places while one is pointed at or has the focus." : ".");
  find("state").textContent =
    `${number(snapshot.admitted)} admitted, ${number(snapshot.denied)} denied since the service started` +
    (paused ? " (paused)" : "");
  if (rate.admitted !== null && Date.now() - summarised > SAID_AGAIN) {
    summarised = Date.now();
    find("summary").textContent =
      `${count}, ${number(rate.admitted)} admitted and ${number(rate.denied)} denied a second.`;
  }
}

function fail(error) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  if (known && error.needsToken) {
    locked = true;
    say(`${error.message} Choose “Token” above.`);
    if (failures === 1 && !token.get()) openToken();
  } else {
    say(`${known ? error.message : `Something is wrong with this page: ${error.message}`} Trying again.`);
  }
  if (before) {
    const now = Date.now() / 1000;
    for (const chart of Object.values(charts)) chart.add(Math.max(now, before.now), null);
  }
  for (const name of ["admitted", "denied"]) find(`${name}-now`).textContent = "–";
  before = null;
  table.forget();
  find("state").textContent = "Not connected";
}

// The same sentence again would be read out again.
function say(text) {
  const place = find("problem");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

function openToken() {
  if (find("token-dialog").open) return;
  find("token").value = token.get();
  find("token-dialog").showModal();
}

function askToReset(key) {
  chosen = key;
  find("reset-key").textContent = readable(key.key);
  find("reset-quota").textContent = readable(key.quota);
  find("reset-dialog").returnValue = "cancel";
  find("reset-dialog").showModal();
}

async function resetChosen() {
  const key = chosen;
  try {
    await reset(key);
    const said = `${readable(key.key)} has the whole of its quota again.`;
    find("done").textContent = said;
    setTimeout(() => {
      if (find("done").textContent === said) find("done").textContent = "";
    }, SAID_FOR);
    look();
  } catch (error) {
    find("done").textContent = "";
    say(`${readable(key.key)} was not reset. ${error.message}`);
    if (error.needsToken && !token.get()) openToken();
  }
}

let typing = 0;
find("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(chosenAnew, 150);
});
for (const id of ["sort", "limit"]) find(id).addEventListener("change", chosenAnew);
find("choice").addEventListener("submit", (event) => {
  event.preventDefault();
  chosenAnew();
});

function chosenAnew() {
  markSort();
  look();
}

function markSort() {
  const sort = find("sort").value;
  for (const head of document.querySelectorAll("th[data-sort]")) {
    const ascending = sort === "key" || sort === "remaining";
    head.setAttribute("aria-sort", head.dataset.sort === sort ? (ascending ? "ascending" : "descending") : "none");
  }
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  find("pause").textContent = paused ? "Paused" : "Pause";
  if (paused) {
    clearTimeout(timer);
    find("state").textContent += " (paused)";
  } else {
    look();
  }
});
find("token-open").addEventListener("click", openToken);
find("token-dialog").addEventListener("close", () => {
  const answer = find("token-dialog").returnValue;
  if (answer === "use") token.set(find("token").value.trim());
  if (answer === "forget") token.set("");
  find("token").value = "";
  find("token-dialog").returnValue = "cancel";
  if (answer === "use" || answer === "forget") {
    failures = 0;
    look();
  }
});
find("reset-dialog").addEventListener("close", () => {
  if (find("reset-dialog").returnValue === "reset") resetChosen();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!paused) {
    before = null; // a difference over the time out of sight would be an average
    look();
  }
});

markSort();
look();
