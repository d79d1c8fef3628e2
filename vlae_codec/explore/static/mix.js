// From the z of one digit to that of another.

import { $, ask, bits, complain, digit, latest, paint, shelf } from "./common.js";

let state, mark, other, images = [];

export function begin(given) {
  state = given;
  const examples = state.about.shelf;
  other = examples[14].pixels;
  mark = shelf($("other"), examples, (pixels) => {
    other = pixels;
    show();
  });
  for (let i = 0; i < state.about.steps; i++) {
    const canvas = digit();
    canvas.addEventListener("click", () => {
      $("share").value = i;
      render();
    });
    $("strip").append(canvas);
  }
  $("share").max = state.about.steps - 1;
  $("share").value = (state.about.steps - 1) >> 1;
  $("share").addEventListener("input", render);
}

const load = latest(async () => {
  try {
    const { model, pixels, seed } = state;
    ({ images } = await ask("mix", { model, from: pixels, to: other, seed }));
    render();
    complain($("mix"));
  } catch (error) {
    complain($("mix"), error);
  }
});

let timer;
export function show() {
  mark(other);
  clearTimeout(timer);
  timer = setTimeout(load, 120);
}

function render() {
  if (!images.length) return;
  const at = Number($("share").value);
  [...$("strip").children].forEach((canvas, i) => {
    paint(canvas, bits(images[i]));
    canvas.classList.toggle("now", i === at);
  });
  paint($("mixed"), bits(images[at]));
  const share = Math.round((100 * at) / (images.length - 1));
  $("share-text").textContent = `z is ${100 - share} % of the digit above and ${share} % of the other`;
  $("share").setAttribute("aria-valuetext", $("share-text").textContent);
}
