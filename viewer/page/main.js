// The page: a websocket to the session, its pictures and numbers, switches and keys.

import { curves, fan, number, picture } from "./draw.js";
import { Hands } from "./keys.js";

const $ = (id) => document.getElementById(id);
const SPAN = 300; // steps that curves show
const state = { control: "agent", place: "world", paused: false, films: 0 };
let facts = null, hands = null, socket = null, acts = false, futures = null;
let sent = 0, waiting = new Map(), wants_film = false;
const latencies = [], arrivals = []; // milliseconds from a key to its picture; times of the newest steps
window.measured = { latencies, steps: 0 };

// ---- the connection ----

function connect() {
  socket = new WebSocket(`ws://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? heed(JSON.parse(data)) : unpack(data));
  socket.onclose = () => {
    acts = false;
    role("not connected");
    setTimeout(connect, 1000);
  };
}

function send(command) {
  if (!acts || socket.readyState !== WebSocket.OPEN) return;
  say_error(""); // of what was done before
  socket.send(JSON.stringify(command));
}

// Four bytes of length, a header as JSON, the pictures that it names.
async function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0), bytes = new Uint8Array(buffer);
  const message = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let at = 4 + length;
  const bitmaps = {};
  for (const [name, size] of message.pictures) {
    bitmaps[name] = createImageBitmap(new Blob([bytes.subarray(at, at + size)]));
    at += size;
  }
  for (const name in bitmaps) bitmaps[name] = await bitmaps[name];
  if (message.kind === "view") show_view(message, bitmaps);
  else if (message.kind === "futures") { futures = [message, bitmaps.sheet]; show_futures(); }
}

function heed(message) {
  if (message.kind === "hello") hello(message);
  else if (message.kind === "role") { acts = message.acts; role(acts ? "in control" : "watching", message.visitors); }
  else if (message.kind === "state") show_state(message);
  else if (message.kind === "error") say_error(message.text);
}

function hello(message) {
  facts = message;
  $("run").textContent = document.title = facts.run;
  $("about").textContent = `${facts.environment} · ${facts.model} + ${facts.actor} · `
    + `${facts.env_steps.toLocaleString("en")} env steps · ${facts.device}`;
  hands = new Hands(facts, act);
  series.clear();
  facts.history.forEach(remember);
  draw_curves();
  $("has-value").hidden = !series.value.length;
}

function role(text, visitors) {
  $("role").textContent = visitors > 1 ? `${text} · ${visitors} pages` : text;
  $("role").classList.toggle("acts", acts);
  for (const control of document.querySelectorAll("aside button, aside input, #futures-on")) control.disabled = !acts;
}

function say_error(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

// ---- pictures and numbers ----

const series = {
  clear() { Object.assign(this, { reward: [], dreamt: [], predicted: [], obtained: [], value: [], marks: [], base: 0, x: 0, step: 0 }); },
};
series.clear();

function put(points, x, y) {
  if (points.length && points[points.length - 1][0] === x) points.pop();
  if (y !== null && y !== undefined) points.push([x, y]);
  if (points.length > 2 * SPAN) points.splice(0, SPAN);
}

function remember(view) {
  if (view.fresh) series.clear();
  if (view.step < series.step || (view.step === 0 && series.step > 0)) {
    series.base = series.x + 1;
    series.marks = [...series.marks.slice(-20), series.base];
  }
  series.step = view.step;
  const x = series.x = series.base + view.step;
  put(series.reward, x, view.reward);
  put(series.dreamt, x, view.imagined_reward);
  put(series.value, x, view.value);
  for (const [step, predicted, obtained] of view.outlooks) {
    if (obtained === null) put(series.predicted, series.base + step, predicted);
    else put(series.obtained, series.base + step, obtained);
  }
}

function draw_curves() {
  curves($("curve-reward"), [["--world", series.reward], ["--dream", series.dreamt]], series.marks, SPAN);
  curves($("curve-return"), [["--plan", series.predicted], ["--world", series.obtained]], series.marks, SPAN);
  if (!$("has-value").hidden) curves($("curve-value"), [["--plan", series.value]], series.marks, SPAN);
}

function show_view(view, bitmaps) {
  for (const name of ["environment", "reconstruction", "dream"]) picture($(name), bitmaps[name]);
  const dreaming = state.place === "dream", end = view.ended ? ` · ${view.ended}` : "";
  $("says-environment").textContent = dreaming ? facts.waits
    : `step ${view.step} · return ${number(view.total)}${end}`;
  $("says-reconstruction").textContent = dreaming ? "" : `reward ${number(view.reward)}`;
  const alive = view.alive < 0.995 ? ` · alive ${Math.round(100 * view.alive)} %` : "";
  $("says-dream").textContent = view.eyes_closed
    ? `eyes closed ${view.eyes_closed}${dreaming ? ` · return ${number(view.total)}` : ""}${alive}${dreaming ? end : ""}` : "looks";
  for (const figure of document.querySelectorAll("figure")) {
    const own = figure.classList.contains("dreaming");
    figure.classList.toggle("asleep", dreaming && !own);
    figure.classList.toggle("closed", own && view.eyes_closed > 0);
  }
  hands.show(view.action, state.control === "human");
  remember(view);
  if ($("has-value").hidden && series.value.length) $("has-value").hidden = false;
  draw_curves();
  $("panes").dataset.step = view.step;
  arrivals.push(performance.now());
  window.measured.steps++;
  requestAnimationFrame(() => measure(view.heard));
}

function measure(heard) {
  const now = performance.now();
  for (const [mark, when] of waiting) {
    if (mark > heard) break;
    latencies.push(now - when);
    waiting.delete(mark);
  }
  while (arrivals.length > 30) arrivals.shift();
  const rate = arrivals.length > 1 ? 1000 * (arrivals.length - 1) / (arrivals[arrivals.length - 1] - arrivals[0]) : 0;
  const key = latencies.slice(-9).sort((a, b) => a - b)[Math.floor(Math.min(9, latencies.length) / 2)];
  $("rate").textContent = `${rate.toFixed(1)} /s${key === undefined ? "" : ` · key to picture ${key.toFixed(0)} ms`}`;
}

function show_futures() {
  if (!futures || !facts) return;
  const [message, bitmap] = futures, many = message.considered;
  $("says-futures").textContent = many ? `the plan, and ${message.ranks.length} of ${many} candidates with their predicted returns over ${message.horizon} steps`
    : `itself, and as it explores, followed for ${message.horizon} steps in the dream, with predicted returns`;
  fan($("fan"), message, bitmap, facts.size);
  $("fan").dataset.step = message.step;
}

// ---- switches ----

function show_state(message) {
  if (message.films > state.films && wants_film) {
    wants_film = false;
    Object.assign(document.createElement("a"), { href: "/film.gif", download: `${facts.run}.gif` }).click();
  }
  Object.assign(state, message);
  const press = (id, on) => $(id).setAttribute("aria-pressed", on);
  press("agent", state.control === "agent");
  press("human", state.control === "human");
  press("world", state.place === "world");
  press("dreamland", state.place === "dream");
  press("pause", state.paused);
  press("record", state.recording);
  $("pause").firstChild.data = state.paused ? "Go on " : "Pause ";
  $("record").firstChild.data = state.recording ? "■ Stop " : "● Record ";
  $("world").disabled = !acts || !facts.has_env;
  $("futures-on").checked = state.futures;
  $("fan").hidden = !state.futures;
  if (document.activeElement !== $("seed")) $("seed").value = state.seed;
  for (const [id, unit] of SLIDERS) {
    if (document.activeElement !== $(id)) $(id).value = state[id];
    $(id).nextElementSibling.textContent = unit(state[id]);
  }
}

const steps = (value) => `${value} steps`;
const SLIDERS = [["speed", (v) => `${v} /s`], ["horizon", steps], ["temperature", (v) => v.toFixed(2)],
  ["open_loop", (v) => (v ? steps(v) : "ever")]];
for (const [id, unit] of SLIDERS) {
  $(id).oninput = () => { $(id).nextElementSibling.textContent = unit(Number($(id).value)); };
  $(id).onchange = () => { $(id).blur(); send({ [id]: Number($(id).value) }); };
}

const does = {
  agent: () => send({ control: "agent" }),
  human: () => send({ control: "human", action: hands.action(), heard: sent }), // keys may have been let go meanwhile
  world: () => send({ place: "world" }),
  dreamland: () => send({ place: "dream" }),
  pause: () => send({ paused: !state.paused }),
  step: () => send({ step: true }),
  wake: () => send({ wake: true }),
  reset: () => send({ reset: Math.max(0, Math.round(Number($("seed").value) || 0)) }),
  record: () => { wants_film = state.recording; send({ record: !state.recording }); },
  theme,
};
for (const id in does) $(id).addEventListener("click", () => { does[id](); $(id).blur(); });
$("futures-on").onchange = () => send({ futures: $("futures-on").checked });
$("seed").onkeydown = (event) => { if (event.key === "Enter") { does.reset(); $("seed").blur(); } };

// A human's action: whoever strikes a key has taken control.
function act(action, struck) {
  if (!acts || (!struck && state.control === "agent")) return;
  waiting.set(++sent, performance.now());
  if (waiting.size > 50) waiting.delete(waiting.keys().next().value);
  const command = { action, heard: sent };
  if (struck && state.control === "agent") command.control = state.control = "human";
  if (struck && state.paused) command.step = true;
  send(command);
}

const SHORTCUTS = {
  " ": does.pause, ".": does.step, x: () => (state.place === "dream" ? does.world : does.dreamland)(),
  v: does.wake, z: does.reset, c: does.record, "[": () => hands.shift(-1), "]": () => hands.shift(1),
  Enter: () => (state.control === "agent" ? does.human : does.agent)(),
};
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=number]"), pressing = event.target.matches("button, input");
  if (typing || !hands || event.ctrlKey || event.metaKey || event.altKey) return;
  const shortcut = SHORTCUTS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (pressing && (event.key === " " || event.key === "Enter" || event.key === "Tab")) return; // what has the focus
  if (hands.key(event, true)) event.preventDefault();
  else if (shortcut && !event.repeat) { event.preventDefault(); shortcut(); }
  else if (shortcut === does.step) does.step();
});
addEventListener("keyup", (event) => { if (hands) hands.key(event, false); });
addEventListener("blur", () => { if (hands && hands.held.size) hands.let_go(); });

// ---- the page's own ----

function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.theme = document.documentElement.dataset.theme = dark ? "light" : "dark";
  redraw();
}
function redraw() { draw_curves(); show_futures(); }
if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
addEventListener("resize", redraw);
connect();
