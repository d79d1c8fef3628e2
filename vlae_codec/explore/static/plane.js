// The map of z, and the draw under the pointer.

import { $, ask, bits, complain, latest, number, paint } from "./common.js";
import { fetched } from "./digits.js";

const maps = new Map();
/** Hues of the classes. */
const HUES = [212, 24, 350, 165, 268, 48, 318, 190, 96, 0];
/** Units of z that the map shows at least to each side, so that a z that says nothing is a heap in the middle. */
const LEAST = 0.8;
let state, found, own, place = null;

export function begin(given) {
  state = given;
  const box = $("map");
  const at = (event) => {
    const frame = box.getBoundingClientRect();
    move([(2 * (event.clientX - frame.left)) / frame.width - 1, 1 - (2 * (event.clientY - frame.top)) / frame.height]);
  };
  box.addEventListener("pointermove", at);
  box.addEventListener("pointerdown", at);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    move((place ?? [0, 0]).map((v, i) => v + 0.05 * step[i]));
  });
  new ResizeObserver(draw).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

export const show = latest(async () => {
  try {
    const { model } = state;
    if (!maps.has(model)) maps.set(model, await ask("map", { model }));
    const fresh = found !== maps.get(model);
    found = maps.get(model);
    found.reach = Math.max(LEAST, 1.06 * Math.max(...found.places.flat().map(Math.abs)));
    draw();
    own = (await fetched(model)).place;
    draw();
    if (place && fresh) under();
    complain($("plane"));
  } catch (error) {
    complain($("plane"), error);
  }
});

/** Go to a place, each way from -1 to 1. */
function move(to) {
  place = to.map((v) => Math.max(-1, Math.min(1, v)));
  const [small, box] = [$("under"), $("map").getBoundingClientRect()];
  small.hidden = false;
  const [x, y] = [((place[0] + 1) / 2) * box.width, ((1 - place[1]) / 2) * box.height];
  // Beside the pointer, on the side where there is room.
  small.style.left = `${x + (x > box.width / 2 ? -104 : 16)}px`;
  small.style.top = `${Math.max(4, Math.min(box.height - 92, y - 44))}px`;
  draw();
  under();
}

const under = latest(async () => {
  if (!found) return;
  const [x, y] = place.map((v) => v * found.reach);
  try {
    const { pixels } = await ask("point", { model: state.model, x, y, seed: state.seed });
    paint($("under"), bits(pixels));
    $("map-text").textContent = `The draw at ${number(x, 2)}, ${number(y, 2)}`;
    complain($("plane"));
  } catch (error) {
    complain($("plane"), error);
  }
});

function draw() {
  const [canvas, box] = [$("points"), $("map").getBoundingClientRect()];
  if (!found || !box.width) return;
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [box.width * ratio, box.height * ratio];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const spot = ([x, y]) => [((x / found.reach + 1) / 2) * box.width, ((1 - y / found.reach) / 2) * box.height];
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.beginPath();
  for (const [from, to] of [[[-99, 0], [99, 0]], [[0, -99], [0, 99]]]) {
    pen.moveTo(...spot(from));
    pen.lineTo(...spot(to));
  }
  pen.stroke();
  const [saturation, lightness] = style.getPropertyValue("--map").trim().split(" ");
  pen.font = "600 11px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  found.places.forEach((each, i) => {
    const label = found.labels[i];
    pen.fillStyle = `hsl(${HUES[label % 10]} ${label % 10 === 9 ? "0%" : saturation} ${lightness})`;
    pen.fillText(String(label), ...spot(each));
  });
  pen.fillStyle = pen.strokeStyle = style.getPropertyValue("--ink");
  const unit = box.width / 2 / found.reach;
  pen.fillRect(12, box.height - 14, unit / 2, 2);
  pen.textAlign = "left";
  pen.fillText("0.5 in z", 12, box.height - 24);
  if (own) {
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.arc(...spot(own), 9, 0, 7);
    pen.stroke();
  }
  if (place) {
    const [x, y] = spot(place.map((v) => v * found.reach));
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const [a, b, c, d] of [[-8, 0, -2, 0], [2, 0, 8, 0], [0, -8, 0, -2], [0, 2, 0, 8]]) {
      pen.moveTo(x + a, y + b);
      pen.lineTo(x + c, y + d);
    }
    pen.stroke();
  }
}
