// A human's action: from keys, buttons and sliders; and which key does what.

const PAIRS = [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], ["a", "d"], ["s", "w"], ["j", "l"], ["k", "i"],
  ["f", "h"], ["g", "t"]];
const CHOICES = [..."1234567890qwertyuiopasdfghjkl"];
const ARROWS = { 2: ["ArrowLeft", "ArrowRight"], 3: ["ArrowLeft", "ArrowDown", "ArrowRight"],
  4: ["ArrowLeft", "ArrowDown", "ArrowUp", "ArrowRight"] };
const MEANT = { LEFT: "ArrowLeft", RIGHT: "ArrowRight", UP: "ArrowUp", DOWN: "ArrowDown", FIRE: "f", NOOP: "n" };
const GLYPHS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const glyph = (key) => GLYPHS[key] || key.toUpperCase();

export class Hands {
  // changed(action): called whenever a human's action changes or a key is struck anew.
  constructor(facts, changed) {
    this.facts = facts;
    this.changed = changed;
    this.held = new Map(); // what is pressed: name -> [dimension, sign], or [index]
    this.idle = Math.max(0, facts.meanings.indexOf("NOOP")); // of discrete actions: what is done if none is pressed
    this.values = []; // what is held without a key: all dimensions, or the index of the one action
    this.rest();
    this.memory = `swapped: ${facts.environment}`;
    this.swapped = new Set(JSON.parse(localStorage[this.memory] || "[]")); // dimensions whose two keys are
    this.first = 0; // the dimension that the first pair of keys moves
    this.box = document.getElementById("controls");
    this.sticky = document.getElementById("sticky");
    this.sticky.onchange = () => { if (!this.sticky.checked) this.let_go(); };
    this.build();
  }

  // ---- which key does what ----

  keys() {
    const bound = new Map();
    if (this.facts.discrete) {
      for (let i = 0; i < this.facts.actions; i++) {
        const meant = MEANT[this.facts.meanings[i]], arrows = ARROWS[this.facts.actions];
        if (CHOICES[i]) bound.set(CHOICES[i], [i]);
        if (meant) bound.set(meant, [i]);
        else if (arrows && !this.facts.meanings.length) bound.set(arrows[i], [i]);
      }
      return bound;
    }
    PAIRS.forEach(([less, more], pair) => {
      const dimension = this.first + pair;
      if (dimension < this.facts.actions) {
        const sign = this.swapped.has(dimension) ? -1 : 1;
        bound.set(less, [dimension, -sign]);
        bound.set(more, [dimension, sign]);
      }
    });
    return bound;
  }

  swap(dimension) { // up is more in one world and less in another
    if (!this.swapped.delete(dimension)) this.swapped.add(dimension);
    localStorage[this.memory] = JSON.stringify([...this.swapped]);
    this.build();
  }

  rest() {
    this.values = this.facts.discrete ? [this.idle] : new Array(this.facts.actions).fill(0);
  }

  shift(by) { // more dimensions than keys
    if (this.facts.discrete || this.facts.actions <= PAIRS.length) return;
    const count = this.facts.actions;
    this.first = Math.max(0, Math.min(count - 1, this.first + by * PAIRS.length));
    this.let_go();
    this.build();
  }

  build() {
    this.bound = this.keys();
    this.box.replaceChildren();
    this.box.classList.toggle("choice", this.facts.discrete);
    const of = (wanted) => [...this.bound].filter(([, what]) => String(what) === String(wanted)).map(([key]) => key);
    if (this.facts.discrete) {
      for (let i = 0; i < this.facts.actions; i++) {
        this.box.append(this.button(this.name(i), of([i]).slice(-2), [i]));
      }
    } else {
      for (let i = 0; i < this.facts.actions; i++) this.box.append(this.dimension(i, of([i, -1]), of([i, 1])));
    }
    const more = this.facts.actions > PAIRS.length && !this.facts.discrete;
    document.getElementById("says-actions").textContent = this.facts.discrete
      ? `none pressed: ${this.name(this.idle)}`
      : more ? "keys, buttons, sliders; [ and ] move the keys on" : "keys, buttons or sliders";
  }

  name(i) {
    return (this.facts.meanings[i] || `action ${i}`).toLowerCase();
  }

  button(name, keys, what) {
    const button = document.createElement("button");
    button.append(Object.assign(document.createElement("span"), { textContent: name }), ...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: glyph(key) })));
    button.dataset.what = String(what);
    button.onpointerdown = (event) => {
      if (event.pointerId !== undefined && button.setPointerCapture) button.setPointerCapture(event.pointerId);
      this.press(button, what);
    };
    button.onpointerup = button.onpointercancel = button.onlostpointercapture = () => this.release(button);
    button.oncontextmenu = (event) => event.preventDefault(); // a long touch
    return button;
  }

  dimension(i, less, more) {
    const row = document.createElement("div");
    row.className = "dimension";
    const name = Object.assign(document.createElement("button"), { className: "name", textContent: i + 1 });
    name.title = "swap the two keys of this dimension";
    name.onclick = () => this.swap(i);
    const slider = Object.assign(document.createElement("input"), { type: "range", min: -1, max: 1, step: 0.05, value: 0 });
    slider.ariaLabel = `action ${i + 1}`;
    slider.oninput = () => { this.values[i] = Number(slider.value); this.tell(); };
    slider.onchange = () => {
      slider.blur();
      if (!this.sticky.checked) { this.values[i] = 0; this.tell(false); }
    };
    row.append(name, this.button("−", less, [i, -1]), slider, this.button("+", more, [i, 1]), document.createElement("output"));
    return row;
  }

  // ---- pressing ----

  press(name, what) {
    if (this.sticky.checked) {
      if (this.facts.discrete) this.values[0] = what[0];
      else this.values[what[0]] = this.values[what[0]] === what[1] ? 0 : what[1];
    }
    this.held.set(name, what);
    this.tell();
  }

  release(name) {
    if (!this.held.delete(name)) return;
    this.tell(false);
  }

  let_go() {
    this.held.clear();
    this.rest();
    this.tell(false);
  }

  // A key of the keyboard; whether it was one of ours. It is held by its place: Shift may change what it writes.
  key(event, down) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, what = this.bound.get(key);
    const place = event.code || key;
    if (!down) this.release(place);
    if (!what) return false;
    if (!down) return true;
    if (!event.repeat) this.press(place, what);
    else this.tell(); // a key that is kept down steps on while the world is paused
    return true;
  }

  action() {
    if (this.facts.discrete) {
      const pressed = [...this.held.values()].pop();
      const index = pressed ? this.together() ?? pressed[0] : this.values[0];
      const row = new Array(this.facts.actions).fill(0);
      row[index] = 1;
      return row;
    }
    const action = [...this.values];
    if (!this.sticky.checked) {
      const sums = new Map();
      for (const [dimension, sign] of this.held.values()) sums.set(dimension, (sums.get(dimension) || 0) + sign);
      for (const [dimension, sum] of sums) action[dimension] = Math.max(-1, Math.min(1, sum));
    }
    return action;
  }

  // Several keys at once, where the environment has a name for that, as Atari's UPRIGHTFIRE.
  together() {
    const names = [...this.held.values()].map(([index]) => this.facts.meanings[index]);
    const whole = ["UP", "DOWN", "RIGHT", "LEFT", "FIRE"].filter((word) => names.includes(word)).join("");
    const index = this.facts.meanings.indexOf(whole);
    return names.length > 1 && index >= 0 ? index : null;
  }

  tell(struck = true) {
    const pressed = new Set([...this.held.values()].map(String));
    for (const button of this.box.querySelectorAll("button")) button.classList.toggle("down", pressed.has(button.dataset.what));
    this.changed(this.action(), struck);
  }

  // ---- showing ----

  // The action that was taken, whoever acts.
  show(action, by_hand) {
    this.box.classList.toggle("by-hand", by_hand);
    if (this.facts.discrete) {
      const taken = action.indexOf(Math.max(...action));
      this.box.querySelectorAll("button").forEach((button, i) => button.classList.toggle("taken", i === taken));
      return;
    }
    this.box.querySelectorAll(".dimension").forEach((row, i) => {
      const slider = row.querySelector("input");
      row.querySelector("output").textContent = action[i].toFixed(2);
      if (document.activeElement !== slider) slider.value = action[i];
    });
  }
}
