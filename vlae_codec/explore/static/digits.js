// A digit, the slider over windows, and what they make of each other.

import { $, SIDE, ask, bits, complain, digit, greys, hex, latest, number, paint, shelf, svg } from "./common.js";

/** What was asked for, and what has come of it, by `key`. */
const asked = new Map(), views = new Map();
const drawn = { canvas: $("drawing"), pixels: new Uint8Array(SIDE * SIDE), last: null };
let state, change, mark;

/** Milliseconds after the last change before the other models are asked for the same digit. */
const PATIENCE = 250;
/** Bits of a value of z at which its bar is not dimmed. */
const BRIGHT = 0.8;
/** Bits below which a value counts as empty. */
const EMPTY = 0.05;

export function begin(given, changed) {
  [state, change] = [given, changed];
  const { models, shelf: examples } = state.about;
  mark = shelf($("shelf"), examples, (pixels) => change({ pixels }));
  $("window").max = models.length - 1;
  $("bars").parentElement.style.setProperty("--n", models.length);
  models.forEach((model, i) => {
    const tick = document.createElement("span");
    tick.textContent = model.label;
    $("ticks").append(tick);
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.innerHTML = "<b></b><i class='pixels'></i><i class='z'></i>";
    bar.addEventListener("click", () => change({ model: i }));
    $("bars").append(bar);
  });
  for (let i = 0; i < 4; i++) $("draws").append(figure(`draw ${i + 1}`));
  $("draws").append(figure("mean"));
  $("draws-text").textContent = `each with a z from q; the mean is of ${state.about.draws}`;
  listen();
}

function figure(name) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  box.append(digit(name), caption);
  return box;
}

function listen() {
  $("window").addEventListener("input", () => change({ model: Number($("window").value) }));
  $("seed").addEventListener("input", () => {
    if ($("seed").value !== "" && $("seed").checkValidity()) change({ seed: Number($("seed").value) });
  });
  $("again").addEventListener("click", () => change({ seed: (state.seed + 1) % 1e9 }));
  $("clear").addEventListener("click", () => change({ pixels: "0".repeat((SIDE * SIDE) / 4) }));
  $("erase").addEventListener("click", () => {
    const on = $("erase").getAttribute("aria-pressed") !== "true";
    $("erase").setAttribute("aria-pressed", String(on));
  });
  $("picture").addEventListener("change", () => {
    take($("picture").files[0]);
    $("picture").value = "";
  });
  $("digits").addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  const { canvas } = drawn;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawn.last = null;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) for (const each of event.getCoalescedEvents?.() ?? [event]) stroke(each);
  });
  canvas.addEventListener("pointerup", () => (drawn.last = null));
}

/** A line of ink from the last place to that of the pointer, about as thick as MNIST's. */
function stroke(event) {
  const box = drawn.canvas.getBoundingClientRect();
  const to = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => v * SIDE);
  const from = drawn.last ?? to;
  const ink = $("erase").getAttribute("aria-pressed") === "true" || event.buttons === 2 ? 0 : 1;
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let s = 0; s <= steps; s++) {
    const [x, y] = from.map((v, i) => v + ((to[i] - v) * s) / steps);
    for (let row = 0; row < SIDE; row++) {
      for (let column = 0; column < SIDE; column++) {
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) < 1.15) drawn.pixels[row * SIDE + column] = ink;
      }
    }
  }
  drawn.last = to;
  change({ pixels: hex(drawn.pixels) });
}

async function take(file) {
  if (!file) return;
  try {
    if (file.size > state.about.limits.bytes) throw new Error(`${file.name} is larger than the ${state.about.limits.bytes >> 20} MiB that this page takes`);
    const { pixels } = await ask("picture", { name: file.name }, file);
    complain($("digits"));
    change({ pixels });
  } catch (error) {
    complain($("digits"), error);
  }
}

// -- what a model makes of it ---------------------------------------------------------------------------------------

const key = (model) => `${model} ${state.seed} ${state.pixels}`;

/** What a model makes of the digit; asked for once. */
export async function fetched(model) {
  const name = key(model);
  if (asked.size > 600) for (const kept of [asked, views]) kept.clear();
  if (!asked.has(name)) asked.set(name, ask("digit", { model, seed: state.seed, pixels: state.pixels }));
  try {
    views.set(name, await asked.get(name));
  } catch (error) {
    asked.delete(name);
    throw error;
  }
  return views.get(name);
}

const load = latest(async () => {
  try {
    await fetched(state.model);
    render();
    complain($("digits"));
  } catch (error) {
    complain($("digits"), error);
  }
});

let timer;
/** The bars of the other windows, when nothing has changed for a moment. */
function loadOthers() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const [pixels, seed] = [state.pixels, state.seed];
    const order = state.about.models.map((_, i) => i).sort((a, b) => Math.abs(a - state.model) - Math.abs(b - state.model));
    for (const model of order) {
      await fetched(model).catch(() => null);
      if (pixels !== state.pixels || seed !== state.seed) return;
      bars();
    }
  }, PATIENCE);
}

export function show() {
  const model = state.about.models[state.model];
  drawn.pixels = bits(state.pixels);
  paint(drawn.canvas, drawn.pixels);
  mark(state.pixels);
  $("window").value = state.model;
  $("window").setAttribute("aria-valuetext", model.label);
  if (document.activeElement !== $("seed")) $("seed").value = state.seed;
  showWindow(model);
  views.has(key(state.model)) ? render() : load();
  loadOthers();
}

function render() {
  const view = views.get(key(state.model));
  bars();
  if (!view) return;
  [...$("draws").querySelectorAll("canvas")].forEach((canvas, i) =>
    paint(canvas, i < view.draws.length ? bits(view.draws[i]) : greys(view.mean)));
  // An average over draws may fall below zero where nothing is left.
  const [z, pixels] = [Math.max(0, view.bits.z), view.bits.pixels];
  $("numbers").innerHTML = `<b class="z">${number(z, 1)}</b> bits in z + <b class="x">${number(pixels, 1)}</b> bits in pixels
    = <b>${number(z + pixels, 1)}</b> bits <span class="quiet">· file <b id="bytes">${number(view.file.bytes)}</b> bytes</span>`;
  values(view.z);
  file(view);
}

function bars() {
  const found = state.about.models.map((_, i) => views.get(key(i)));
  const most = Math.max(1, ...found.map((view) => (view ? view.bits.z + view.bits.pixels : 0)));
  [...$("bars").children].forEach((bar, i) => {
    const view = found[i];
    bar.classList.toggle("now", i === state.model);
    bar.classList.toggle("waiting", !view);
    const [total, pixels, z] = bar.children;
    total.textContent = view ? number(view.bits.z + view.bits.pixels) : "";
    pixels.style.height = view ? `${(82 * view.bits.pixels) / most}%` : "";
    z.style.height = view ? `${(82 * Math.max(0, view.bits.z)) / most}%` : "";
  });
  $("ticks").querySelectorAll("span").forEach((tick, i) => tick.classList.toggle("now", i === state.model));
}

function values({ mean, std, kl }) {
  const [width, height] = [10, 120];
  const reach = 1.05 * Math.max(1, ...mean.map((value, i) => Math.abs(value) + std[i]));
  const scale = (v) => height / 2 - (v * height) / 2 / reach;
  const box = $("values");
  box.setAttribute("viewBox", `0 0 ${width * mean.length} ${height}`);
  box.setAttribute("preserveAspectRatio", "none");
  box.replaceChildren(svg("line", { class: "axis", x1: 0, x2: width * mean.length, y1: height / 2, y2: height / 2 }));
  mean.forEach((value, i) => {
    const light = 0.1 + 0.9 * Math.min(1, Math.max(0, kl[i]) / BRIGHT);
    const [zero, top] = [scale(0), scale(value)];
    const group = svg("g", { opacity: light.toFixed(3), "data-bits": kl[i] });
    group.append(
      svg("title", {}, `value ${i + 1}: ${number(value, 2)} ± ${number(std[i], 2)}, ${number(kl[i], 2)} bits`),
      svg("rect", { class: "hit", x: i * width, y: 0, width, height }),
      svg("rect", { class: "value", x: i * width + 1.5, y: Math.min(zero, top), width: width - 3, height: Math.max(1, Math.abs(zero - top)) }),
      svg("line", { class: "whisker", x1: (i + 0.5) * width, x2: (i + 0.5) * width, y1: scale(value - std[i]), y2: scale(value + std[i]) }),
    );
    box.append(group);
  });
  const full = kl.filter((v) => v >= EMPTY).length;
  $("z-text").textContent = `${full} of ${kl.length} carry ${EMPTY} bits or more`;
  box.setAttribute("aria-label", `The values of z: ${$("z-text").textContent}`);
}

function showWindow({ stem, window: seen, channels }) {
  const named = seen.pixels === 0 ? "sees no pixels" : seen.rows >= SIDE ? "sees every pixel before its own" : `sees ${seen.pixels} pixels`;
  $("window-text").textContent = named;
  const box = $("seen"), cell = 10;
  box.setAttribute("viewBox", `0 0 ${17 * cell} ${10 * cell}`);
  box.replaceChildren();
  const cells = (list) => new Set(list.map(([x, y]) => `${x},${y}`));
  const [near, beyond] = [cells(seen.window), cells(seen.beyond)];
  for (let y = -8; y <= 1; y++) {
    for (let x = -8; x <= 8; x++) {
      const at = `${x},${y}`;
      const kind = x === 0 && y === 0 ? "here" : near.has(at) ? "window" : beyond.has(at) ? "beyond" : y > 0 || (y === 0 && x > 0) ? "later" : "known";
      box.append(svg("rect", { class: kind, x: (x + 8) * cell + 0.5, y: (y + 8) * cell + 0.5, width: cell - 1, height: cell - 1, rx: 1.5 }));
    }
  }
  box.setAttribute("aria-label", `The decoder ${named}`);
  $("seen-text").textContent = `Model ${stem}: it ${named}${seen.beyond.length ? ", and through its blocks those in a lighter shade" : ""}. ` +
    (seen.pixels ? "Around the pixel that is next, at the bottom." : `All that it knows of the digit are the ${channels} values of z.`);
}

function file(view) {
  const head = Math.round(view.file.header_bits / 8);
  const { name } = state.about.models[state.model];
  $("file-text").textContent = `${number(view.file.bytes)} bytes`;
  $("file-note").textContent =
    `${head} of them are its head, the name and checksums, and alone a digit pays for all of z. In an archive of thousands ` +
    `these are shared: about ${number((view.bits.z + view.bits.pixels) / 8, 1)} bytes are left, the bits above. The same file is made by`;
  $("command").textContent = `vlae-codec compress digit.png -o digit.vlae --model ${name} --no-attributes`;
  const query = new URLSearchParams({ model: state.model, pixels: state.pixels });
  $("get-vlae").href = `/api/vlae?${query}`;
  $("get-png").href = `/api/png?${query}`;
}
