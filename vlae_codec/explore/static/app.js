// The state that all sections see: the digit, the model, the seed. Each section is told when it changes.

import { $, ask, complain } from "./common.js";
import * as digits from "./digits.js";
import * as mix from "./mix.js";
import * as photographs from "./photographs.js";
import * as plane from "./plane.js";

const state = { pixels: "", model: 0, seed: 0, about: null };

function change(what) {
  Object.assign(state, what);
  for (const section of [digits, plane, mix]) section.show(state);
}

// A file that misses its place shall not replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement?.classList.contains("term")) document.activeElement.blur();
});

photographs.begin();
try {
  state.about = await ask("about");
  for (const section of [digits, plane, mix]) section.begin(state, change);
  const middle = Math.min(1, state.about.models.length - 1);
  change({ pixels: state.about.shelf[6].pixels, model: middle });
} catch (error) {
  complain($("digits"), error);
}
