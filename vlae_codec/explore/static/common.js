// What the sections share: requests, images on canvases, and the shelf of examples.

export const SIDE = 28;
export const $ = (id) => document.getElementById(id);

/** Ask the server; its error's sentence becomes the exception's. */
export async function ask(name, query, file) {
  const address = `/api/${name}?${new URLSearchParams(query)}`;
  let answer;
  try {
    answer = await fetch(address, file ? { method: "POST", body: file } : {});
  } catch {
    throw new Error("The server does not answer. Is vlae-codec explore still running?");
  }
  if (answer.ok) return answer.json();
  const found = await answer.json().catch(() => ({}));
  throw new Error(found.error || `The server answered ${answer.status} ${answer.statusText}`);
}

/** Show an error in a section, or clear it where there is none. */
export function complain(section, error) {
  const line = section.querySelector(".error");
  line.hidden = !error;
  line.textContent = error ? error.message : "";
}

/** A function that runs once at a time; of the calls that come meanwhile only the last is run. */
export function latest(work) {
  let running = false, next = null;
  return async function call(...given) {
    if (running) {
      next = given;
      return;
    }
    running = true;
    try {
      await work(...given);
    } finally {
      running = false;
      if (next) {
        const again = next;
        next = null;
        call(...again);
      }
    }
  };
}

/** The pixels (0 or 1) that hexadecimal digits hold. */
export function bits(text) {
  const found = new Uint8Array(SIDE * SIDE);
  for (let i = 0; i < text.length; i++) {
    const four = parseInt(text[i], 16);
    for (let j = 0; j < 4; j++) found[4 * i + j] = (four >> (3 - j)) & 1;
  }
  return found;
}

/** The inverse of `bits`. */
export function hex(pixels) {
  let text = "";
  for (let i = 0; i < pixels.length; i += 4) {
    text += (8 * pixels[i] + 4 * pixels[i + 1] + 2 * pixels[i + 2] + pixels[i + 3]).toString(16);
  }
  return text;
}

/** The shares of ink (0 to 1) that hexadecimal bytes hold. */
export function greys(text) {
  return Float32Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16) / 255);
}

/** Put shares of ink on a canvas of 28x28, in the page's ink on its paper. */
export function paint(canvas, ink) {
  const image = new ImageData(SIDE, SIDE);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const [paper, pen] = dark ? [[22, 24, 29], [244, 241, 234]] : [[255, 255, 255], [26, 28, 34]];
  for (let i = 0; i < SIDE * SIDE; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + (pen[c] - paper[c]) * ink[i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.ink = ink;
}

/** A new canvas for a digit. */
export function digit(label) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  if (label) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  return canvas;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const canvas of document.querySelectorAll("canvas")) if (canvas.ink) paint(canvas, canvas.ink);
});

/** Fill a radio group with examples; arrow keys move in it. Returns a function that marks one by its pixels. */
export function shelf(box, examples, choose) {
  const second = new Set();
  const buttons = examples.map(({ label, pixels }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `${second.has(label) ? "another " : "a "}${label}`);
    second.add(label);
    button.append(digit());
    paint(button.firstChild, bits(pixels));
    button.addEventListener("click", () => choose(pixels));
    return button;
  });
  box.append(...buttons);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  return (pixels) => {
    const chosen = examples.findIndex((each) => each.pixels === pixels);
    buttons.forEach((button, i) => {
      button.setAttribute("aria-checked", String(i === chosen));
      button.tabIndex = i === Math.max(chosen, 0) ? 0 : -1;
    });
  };
}

/** An element of SVG. */
export function svg(name, attributes, text) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
