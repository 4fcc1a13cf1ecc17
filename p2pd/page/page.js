"use strict";
// The page of a scheduler. The server sends the whole once, and then what has changed, at most once a second
// (p2pd/admin/cluster.py). Names come from hosts, which may be hostile: they become text, and never markup.

// Rows are in objects without a prototype: a host may call itself __proto__.

const state = { cluster: {}, places: table(), pulls: table(), blobs: table(), troubles: table(), quarantined: table() };
function table() {
  return Object.create(null);
}
const $ = (id) => document.getElementById(id);
const HISTORY_S = 300;
const SHOWN_LIVE = 8;
let clock = 0;  // seconds that the server's clock is ahead of this one

// -- words ------------------------------------------------------------------------------------------------------------

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
function size(bytes) {
  let unit = 0;
  for (; bytes >= 1000 && unit < UNITS.length - 1; unit++) bytes /= 1024;
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}
const rate = (bytes) => `${size(bytes)}/s`;
const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
const now = () => Date.now() / 1000 + clock;
const place = (row) => [row.site, row.zone].filter(Boolean).join(" / ") || "(no site named)";
const repository = (pull) => `${pull.upstream}/${pull.repository}`;
const copies = (pull) => (pull.size_bytes ? (pull.origin_bytes / pull.size_bytes).toFixed(2) : "–");
function sources(pull) {
  const origin = Math.min(pull.origin_bytes, pull.received_bytes);
  const far = Math.min(pull.far_bytes, pull.received_bytes - origin);
  return { origin, near: pull.received_bytes - origin - far, far };
}
function sum(rows, of) {
  let total = 0;
  for (const row of rows) total += of(row);
  return total;
}

// -- elements ---------------------------------------------------------------------------------------------------------

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function element(kind, className = "", text = "") {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
function bar(parts, className = "") {
  const track = element("div", `track ${className}`);
  for (const part of parts) track.append(element("span", part));
  return track;
}
function setBar(track, shares) {
  shares.forEach((share, at) => {
    const width = `${(100 * share).toFixed(1)}%`;
    const part = track.children[at];
    if (part.style.getPropertyValue("--share") !== width) part.style.setProperty("--share", width);
  });
}

// A table whose rows are known by key: a row that has not changed is not touched, and the order changes only if it must.
// `columns`: title, value (for sorting), show (a text, or fill the cell), and class names.
class Table {
  constructor(id, columns, sortedBy, descending = true) {
    this.columns = columns;
    this.rows = new Map();
    this.sortedBy = sortedBy;
    this.descending = descending;
    const table = $(id);
    const head = table.createTHead().insertRow();
    this.body = table.createTBody();
    this.heads = columns.map((column, at) => {
      const cell = element("th", column.className || "");
      cell.scope = "col";
      if (column.value) {
        const button = element("button", "", column.title);
        button.type = "button";
        button.addEventListener("click", () => this.sortBy(at));
        cell.append(button);
      } else {
        cell.textContent = column.title;
      }
      head.append(cell);
      return cell;
    });
    this.tellOrder();
  }

  sortBy(at) {
    this.descending = this.sortedBy === at ? !this.descending : typeof this.example(at) === "number";
    this.sortedBy = at;
    this.tellOrder();
    this.order();
  }

  example(at) {
    for (const { row } of this.rows.values()) return this.columns[at].value(row);
    return 0;
  }

  tellOrder() {
    this.heads.forEach((cell, at) => {
      if (at === this.sortedBy) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  show(rows) {
    for (const [key, shown] of this.rows) {
      if (!Object.hasOwn(rows, key)) {
        shown.element.remove();
        this.rows.delete(key);
      }
    }
    for (const [key, row] of Object.entries(rows)) {
      let shown = this.rows.get(key);
      if (shown && shown.row === row) continue;
      if (!shown) {
        shown = { element: element("tr"), row: null };
        for (const [at, column] of this.columns.entries()) {
          const cell = element(at ? "td" : "th", column.className || "");
          if (!at) cell.scope = "row";
          shown.element.append(cell);
        }
        this.rows.set(key, shown);
      }
      shown.row = row;
      this.columns.forEach((column, at) => this.fill(column, shown.element.children[at], row));
    }
    this.order();
  }

  fill(column, cell, row) {
    const text = column.show(row, cell);
    if (typeof text === "string") setText(cell, text);
  }

  again() {  // what depends on the time
    for (const shown of this.rows.values()) {
      this.columns.forEach((column, at) => column.ages && this.fill(column, shown.element.children[at], shown.row));
    }
  }

  order() {
    const value = this.columns[this.sortedBy].value;
    const sign = this.descending ? -1 : 1;
    const sorted = [...this.rows.values()].sort((a, b) => {
      const [x, y] = [value(a.row), value(b.row)];
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    let before = null;
    for (const shown of sorted) {
      const after = before ? before.nextSibling : this.body.firstChild;
      if (after !== shown.element) this.body.insertBefore(shown.element, after);
      before = shown.element;
    }
  }
}

// -- pulls going on ---------------------------------------------------------------------------------------------------

const cards = new Map();

function newCard(pull) {
  const card = { root: element("article", "pull"), received: [] };
  const head = element("div", "pull-head");
  card.name = element("strong", "", repository(pull));
  card.progress = element("span");
  head.append(card.name, card.progress);
  card.bar = bar(["whole"]);
  card.bar.setAttribute("role", "progressbar");
  card.bar.setAttribute("aria-label", repository(pull));
  card.figures = element("p", "figures");
  card.sources = bar(["origin", "near", "far"], "small");
  card.sources.setAttribute("aria-hidden", "true");
  card.legend = element("p");
  card.details = element("details");
  card.summary = element("summary");
  const table = element("table");
  card.id = `blobs-${pull.number}`;
  table.id = card.id;
  card.details.append(card.summary, table);
  card.root.append(head, card.bar, card.figures, card.sources, card.legend, card.details);
  $("now").append(card.root);
  card.table = new Table(card.id, [
    { title: "Blob", value: (row) => row.blob, show: (row) => row.blob },
    { title: "Size", className: "number", value: (row) => row.size_bytes, show: (row) => size(row.size_bytes) },
    { title: "Left the registry", className: "number medium", value: (row) => row.landed_percent, show: (row) => `${row.landed_percent} %` },
    { title: "Hosts have", className: "number", value: (row) => row.held_percent, show: (row) => `${row.held_percent} %` },
    { title: "Hosts that want it", className: "number medium", value: (row) => row.wanting, show: (row) => row.wanting.toLocaleString("en") },
    { title: "Have it whole", className: "number medium", value: (row) => row.complete, show: (row) => row.complete.toLocaleString("en") },
    { title: "Fetched by", className: "number wide", value: (row) => row.leases, show: (row) => count(row.leases, "lease", "leases") },
  ], 1);
  return card;
}

function legend(parent, entries) {
  while (parent.children.length < entries.length) {
    const entry = element("span", "legend");
    entry.append(element("i"), element("span"));
    parent.append(entry);
  }
  entries.forEach(([className, text], at) => {
    const [mark, words] = parent.children[at].children;
    if (mark.className !== className) mark.className = className;
    setText(words, text);
  });
}

function sourceEntries(parts) {
  const total = parts.origin + parts.near + parts.far || 1;
  const percent = (part) => (part && 100 * part < total ? "under 1" : Math.round((100 * part) / total));
  const share = (part) => `${size(part)} (${percent(part)} %)`;
  return [
    ["origin", `registry ${share(parts.origin)}`],
    ["near", `${parts.far ? "same site" : "other hosts"} ${share(parts.near)}`],
    ...(parts.far ? [["far", `other sites ${share(parts.far)}`]] : []),
  ];
}

function setSources(track, parts) {
  const total = parts.origin + parts.near + parts.far || 1;
  setBar(track, [parts.origin / total, parts.near / total, parts.far / total]);
}

function showNow() {
  const live = Object.values(state.pulls).filter((pull) => pull.ended_at === null);
  live.sort((a, b) => b.left_bytes - a.left_bytes);
  const shown = new Set();
  for (const pull of live.slice(0, SHOWN_LIVE)) {
    shown.add(pull.number);
    if (!cards.has(pull.number)) cards.set(pull.number, newCard(pull));
    showCard(cards.get(pull.number), pull);
  }
  for (const [number, card] of cards) {
    if (shown.has(number)) continue;
    card.root.remove();
    cards.delete(number);
  }
  const more = live.length - shown.size;
  $("now-empty").hidden = live.length > 0 && more <= 0;
  setText($("now-empty"), more > 0 ? `${count(more, "more pull", "more pulls")}: see the pulls of the last day.` : "No host wants anything now.");
}

function showCard(card, pull) {
  const at = now();
  card.received.push([at, pull.received_bytes]);
  while (card.received.length > 2 && card.received[0][0] < at - 8) card.received.shift();
  const [from, before] = card.received[0];
  const speed = at > from ? (pull.received_bytes - before) / (at - from) : 0;
  const share = pull.received_bytes / (pull.received_bytes + pull.left_bytes || 1);
  const percent = Math.floor(100 * share);
  const left = speed > 0 && pull.left_bytes ? `, about ${duration(pull.left_bytes / speed)} left` : "";
  setText(card.progress, `${percent} %${left}`);
  card.bar.setAttribute("aria-valuenow", String(percent));
  setBar(card.bar, [share]);
  const broken = pull.broken_off ? `, ${pull.broken_off} broken off` : "";
  setText(card.figures, `${count(pull.hosts, "host", "hosts")}, ${count(pull.blobs, "blob", "blobs")} of ${size(pull.size_bytes)} `
    + `in all, ${rate(speed)}, ${copies(pull)} copies taken from the registry${broken}, for ${duration(at - pull.began_at)}`);
  const parts = sources(pull);
  setSources(card.sources, parts);
  legend(card.legend, sourceEntries(parts));
  const blobs = Object.fromEntries(Object.entries(state.blobs).filter(([, blob]) => blob.pull === pull.number));
  setText(card.summary, count(Object.keys(blobs).length, "blob on its way", "blobs on their way"));
  card.table.show(blobs);
}

// -- where bytes come from --------------------------------------------------------------------------------------------

const history = [];  // [time, received bytes, bytes from registries]

function sample() {
  const pulls = Object.values(state.pulls);
  history.push([now(), sum(pulls, (pull) => pull.received_bytes), sum(pulls, (pull) => Math.min(pull.origin_bytes, pull.received_bytes))]);
  while (history.length && history[0][0] < now() - HISTORY_S - 10) history.shift();
}

function ratesAt(at) {  // over the five seconds before: hosts report every two
  let first = at;
  while (first > 0 && history[at][0] - history[first][0] < 5) first--;
  const seconds = history[at][0] - history[first][0];
  if (seconds <= 0) return [0, 0];
  return [1, 2].map((column) => Math.max(0, history[at][column] - history[first][column]) / seconds);
}

function showChart() {
  if (history.length < 2) return;
  const end = history[history.length - 1][0];
  const span = Math.min(HISTORY_S, Math.max(60, end - history[0][0]));
  const points = history.map((_, at) => [600 * (1 - (end - history[at][0]) / span), ...ratesAt(at)]);
  const most = Math.max(1024, ...points.map((point) => Math.max(point[1], point[2])));
  const y = (value) => (120 - 112 * value / most).toFixed(1);
  const line = (of) => points.map((point) => `${point[0].toFixed(1)},${y(of(point))}`).join(" ");
  const [first, last] = [points[0][0].toFixed(1), points[points.length - 1][0].toFixed(1)];
  $("area-peers").setAttribute("points", `${first},120 ${line((point) => Math.max(point[1], point[2]))} ${last},120`);
  $("area-origin").setAttribute("points", `${first},120 ${line((point) => Math.min(point[2], point[1]))} ${last},120`);
  const [received, origin] = ratesAt(history.length - 1);
  setText($("chart-text"), `The last ${span < 120 ? `${Math.round(span)} seconds` : `${Math.round(span / 60)} minutes`}. The top is ${rate(most)}; now ${rate(received)}, of it ${rate(Math.min(origin, received))} from the registry.`);
}

let daySources = null;

function showSources() {
  if (!daySources) {
    daySources = { track: bar(["origin", "near", "far"]), legend: element("p"), head: element("h3", "", "All pulls of the last day") };
    daySources.track.setAttribute("aria-hidden", "true");
    $("sources").append(daySources.head, daySources.track, daySources.legend);
  }
  const parts = { origin: 0, near: 0, far: 0 };
  for (const pull of Object.values(state.pulls)) {
    const of = sources(pull);
    for (const name of Object.keys(parts)) parts[name] += of[name];
  }
  setSources(daySources.track, parts);
  legend(daySources.legend, sourceEntries(parts));
}

// -- tiles ------------------------------------------------------------------------------------------------------------

function showTiles() {
  const cluster = state.cluster;
  const pulls = Object.values(state.pulls);
  const sites = new Set(Object.values(state.places).map((row) => row.site));
  setText($("hosts"), cluster.hosts.toLocaleString("en"));
  setText($("hosts-note"), `${count(sites.size, "site", "sites")}, ${cluster.pulling.toLocaleString("en")} pulling now`);
  setText($("rate"), rate(cluster.rate_bytes_per_s));
  setText($("rate-note"), `${count(cluster.blobs_in_all, "blob", "blobs")} on the way; averaged over 10 s`);
  const received = sum(pulls, (pull) => pull.received_bytes);
  const origin = sum(pulls, (pull) => Math.min(pull.origin_bytes, pull.received_bytes));
  const distinct = sum(pulls, (pull) => pull.size_bytes);
  const saved = sum(pulls, (pull) => pull.saved_s || 0);
  setText($("spared"), size(received - origin));
  setText($("spared-note"), saved ? `in the last day, and about ${duration(saved)} of pulling` : "in the last day");
  setText($("copies"), distinct ? (origin / distinct).toFixed(2) : "–");
  setText($("copies-note"), "of each byte, from registries");
  setText($("where"), cluster.schedulers > 1 ? `${location.host}, of ${cluster.schedulers} schedulers` : location.host);
  const lacking = cluster.problem ? `What is here is of this scheduler alone: ${cluster.problem}.`
    : cluster.untold ? `What ${count(cluster.untold, "other scheduler knows", "other schedulers know")} is not here: nothing was told lately.` : "";
  setText($("lacking"), lacking);
  $("lacking").hidden = !lacking;
  const versions = cluster.versions.map(([version, hosts]) => `${version || "older"}: ${hosts.toLocaleString("en")}`).join(", ");
  setText($("version"), `The scheduler runs p2pd ${cluster.scheduler_version}. Hosts by version: ${versions || "none"}.`);
}

// -- places and their hosts -------------------------------------------------------------------------------------------

function placeCell(row, cell) {
  let button = cell.firstChild;
  if (!button) {
    button = element("button");
    button.type = "button";
    cell.append(button);
  }
  button.onclick = () => openPlace(row);
  setText(button, place(row));
  button.setAttribute("aria-label", `Hosts of ${place(row)}`);
}

function stateCell(row, cell) {
  const track = cell.firstChild || cell.appendChild(bar(["pulling", "serving", "troubled"], "small"));
  const idle = row.hosts - row.pulling - row.serving;
  setBar(track, [row.pulling / row.hosts, row.serving / row.hosts, Math.min(row.problems, Math.max(0, idle)) / row.hosts]);
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", `${row.pulling} of ${row.hosts} pull, ${row.serving} serve`);
}

const numbers = (title, name, className = "number") => (
  { title, className, value: (row) => row[name], show: (row) => row[name].toLocaleString("en") });

const places = new Table("places", [
  { title: "Place", value: place, show: placeCell },
  numbers("Hosts", "hosts"),
  { title: "At work", className: "wide", show: stateCell },
  numbers("Pulling", "pulling"),
  numbers("Serving", "serving", "number medium"),
  { title: "Coming in", className: "number", value: (row) => row.rate_bytes_per_s, show: (row) => rate(row.rate_bytes_per_s) },
  { ...numbers("Problems", "problems", "number medium"), show: (row, cell) => {
    cell.classList.toggle("bad", row.problems > 0);
    return row.problems.toLocaleString("en");
  } },
], 1);

const hosts = new Table("hosts-table", [
  { title: "Host", value: (row) => row.id, show: (row) => row.id },
  { title: "Address", className: "medium", value: (row) => row.address, show: (row) => row.address },
  { title: "Rack", className: "wide", value: (row) => row.rack, show: (row) => row.rack || "–" },
  { title: "Version", className: "wide", value: (row) => row.version, show: (row) => row.version || "older" },
  { title: "Wants", className: "number", value: (row) => row.wants, show: (row) => count(row.wants, "blob", "blobs") },
  { title: "Coming in", className: "number", value: (row) => row.rate_bytes_per_s, show: (row) => rate(row.rate_bytes_per_s) },
  { title: "Connected", className: "number wide", value: (row) => row.connected_s, show: (row) => duration(row.connected_s) },
  { title: "Last error", className: "medium", value: (row) => row.last_error, show: (row) => row.last_error || "–" },
], 0, false);

const drill = { at: null, first: 0, count: 0, asked: 0, opener: null };

function openPlace(row) {
  drill.at = row;
  drill.first = 0;
  drill.opener = document.activeElement;
  $("drill-text").value = "";
  setText($("h-drill"), `Hosts of ${place(row)}`);
  $("drill").hidden = false;
  $("h-drill").focus();
  askHosts();
}

async function askHosts() {
  if (!drill.at) return;
  const number = ++drill.asked;
  const query = new URLSearchParams({ site: drill.at.site, zone: drill.at.zone, first: drill.first, text: $("drill-text").value });
  let found;
  try {
    const answer = await fetch(`cluster/hosts?${query}`);
    if (!answer.ok) return;
    found = await answer.json();
  } catch {
    return;  // the line above the page says that the scheduler is gone
  }
  if (number !== drill.asked || !drill.at) return;
  drill.count = found.count;
  hosts.show(Object.fromEntries(found.hosts.map((row) => [row.id, row])));
  const last = drill.first + found.hosts.length;
  setText($("drill-range"), found.count ? `${(drill.first + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${found.count.toLocaleString("en")}` : "none");
  $("drill-before").disabled = !drill.first;
  $("drill-after").disabled = last >= found.count;
}

function turn(by) {
  drill.first = Math.max(0, drill.first + by);
  askHosts();
}

$("drill-before").addEventListener("click", () => turn(-100));
$("drill-after").addEventListener("click", () => turn(100));
$("drill-text").addEventListener("input", () => { drill.first = 0; askHosts(); });
function closePlace() {
  drill.at = null;
  $("drill").hidden = true;
  if (drill.opener) drill.opener.focus();
}
$("drill-close").addEventListener("click", closePlace);
$("drill").addEventListener("keydown", (event) => { if (event.key === "Escape") closePlace(); });

// -- problems ---------------------------------------------------------------------------------------------------------

const troubles = new Table("troubles", [
  { title: "Host", value: (row) => row.id, show: (row) => row.id },
  { title: "Place", className: "medium", value: (row) => row.where, show: (row) => row.where },
  { title: "What is wrong", value: (row) => row.problems[0], show: (row, cell) => {
    if (cell.dataset.shown === row.problems.join("\n")) return;
    cell.dataset.shown = row.problems.join("\n");
    const list = element("ul");
    for (const problem of row.problems) list.append(element("li", "", problem));
    cell.replaceChildren(list);
  } },
], 0, false);

function showTroubles() {
  const rows = table();
  for (const [key, row] of Object.entries(state.troubles)) {
    row.where ??= place(row);
    rows[key] = row;
  }
  for (const [key, row] of Object.entries(state.quarantined)) {
    row.where ??= row.came_from || "–";
    row.problems ??= [`in quarantine until ${new Date(row.until * 1000).toLocaleTimeString()}: ${row.reason}`];
    rows[`quarantined\n${key}`] = row;
  }
  const all = state.cluster.troubles_in_all + Object.keys(state.quarantined).length;
  setText($("troubles-count"), all ? `${all.toLocaleString("en")}${all > Object.keys(rows).length ? `, the worst ${Object.keys(rows).length} here` : ""}` : "");
  troubles.show(rows);
  $("troubles").hidden = !all;
  $("troubles-empty").hidden = all > 0;
}

// -- pulls of the last day --------------------------------------------------------------------------------------------

const ended = (pull) => (pull.ended_at === null ? now() : pull.ended_at);
const pulls = new Table("pulls", [
  { title: "Repository", value: repository, show: repository },
  { title: "Began", className: "number", ages: true, value: (pull) => pull.began_at, show: (pull) => `${duration(now() - pull.began_at)} ago` },
  numbers("Hosts", "hosts"),
  { title: "Size", className: "number medium", value: (pull) => pull.size_bytes, show: (pull) => size(pull.size_bytes) },
  { title: "Received", className: "number wide", value: (pull) => pull.received_bytes, show: (pull) => size(pull.received_bytes) },
  { title: "Registry", className: "number wide", value: (pull) => pull.origin_bytes, show: (pull) => size(pull.origin_bytes) },
  { title: "Other sites", className: "number wide", value: (pull) => pull.far_bytes, show: (pull) => size(pull.far_bytes) },
  { title: "Copies", className: "number", value: (pull) => pull.origin_bytes / (pull.size_bytes || 1), show: copies },
  { title: "Took", className: "number medium", ages: true, value: (pull) => ended(pull) - pull.began_at,
    show: (pull) => (pull.ended_at === null ? "going on" : duration(pull.ended_at - pull.began_at)) },
  { title: "Saved", className: "number wide", value: (pull) => pull.saved_s || 0, show: (pull) => (pull.saved_s ? `about ${duration(pull.saved_s)}` : "–") },
  { title: "Broken off", className: "number wide", value: (pull) => pull.broken_off, show: (pull) => pull.broken_off.toLocaleString("en") },
], 1);

function showPulls() {
  pulls.show(state.pulls);
  const none = !Object.keys(state.pulls).length;
  $("pulls").hidden = none;
  $("pulls-empty").hidden = !none;
  const since = Math.max(state.cluster.pulls_since, now() - 86400);
  setText($("pulls-since"), `Since ${new Date(since * 1000).toLocaleString()}: ${state.cluster.pulls_since > now() - 86400 ? state.cluster.schedulers > 1 ? "the schedulers know of none before" : "the scheduler keeps them in its memory, and knows of none before" : "24 hours ago"}.`);
}

// -- events -----------------------------------------------------------------------------------------------------------

let drawing = false;
function draw() {  // once for all that has come, when the browser paints; not at all while nobody sees the page
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (state.cluster.hosts === undefined) return;
    showTiles();
    showNow();
    showSources();
    places.show(state.places);
    showTroubles();
    showPulls();
    document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
  });
}

function tell(words, className) {
  if ($("state").className === className) return;
  $("state").className = className;
  setText($("state"), words);
}

function take(changes, whole) {
  for (const [name, rows] of Object.entries(changes)) {
    if (!Object.hasOwn(state, name)) continue;
    if (whole) state[name] = table();
    for (const [key, row] of Object.entries(rows)) {
      if (row === null && name !== "cluster") delete state[name][key];
      else state[name][key] = row;
    }
  }
  tell("Live", "live");
  draw();
}

function listen() {
  const events = new EventSource("cluster/events");
  events.addEventListener("clock", (event) => { clock = JSON.parse(event.data).time - Date.now() / 1000; });
  events.addEventListener("whole", (event) => take(JSON.parse(event.data), true));
  events.addEventListener("change", (event) => take(JSON.parse(event.data), false));
  events.addEventListener("error", () => {
    tell("The scheduler does not answer: what is here is old", "lost");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);  // it refused: too many listen
  });
}

listen();
setInterval(() => {
  if (state.cluster.hosts === undefined) return;
  sample();
  if (document.hidden) return;
  showChart();
  pulls.again();
}, 1000);
setInterval(() => { if (!document.hidden) askHosts(); }, 3000);
