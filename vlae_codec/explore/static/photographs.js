// A photograph beside what z tells of it, or beside WebP.

import { $, ask, complain, latest, number } from "./common.js";

let file = null, found = null, addresses = [];

export function begin() {
  $("photo").addEventListener("change", () => {
    take($("photo").files[0]);
    $("photo").value = "";
  });
  const section = $("photographs");
  for (const [name, on] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    section.addEventListener(name, () => $("drop").classList.toggle("over", on));
  }
  section.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  $("quality").addEventListener("input", () => ($("quality-text").textContent = $("quality").value));
  $("quality").addEventListener("change", () => load());
  for (const radio of document.querySelectorAll("[name=side]")) radio.addEventListener("change", render);
  $("divider").addEventListener("input", divide);
  const compare = $("compare");
  const drag = (event) => {
    const box = compare.getBoundingClientRect();
    $("divider").value = (100 * (event.clientX - box.left)) / box.width;
    divide();
  };
  compare.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    compare.setPointerCapture(event.pointerId);
    drag(event);
  });
  compare.addEventListener("pointermove", (event) => compare.hasPointerCapture(event.pointerId) && drag(event));
  divide();
}

function take(given) {
  if (!given) return;
  file = given;
  load();
}

const load = latest(async () => {
  const mine = file, begun = performance.now();
  const tell = () => {
    $("photo-status").textContent = `Coding ${mine.name}: ${number((performance.now() - begun) / 1000)} s`;
  };
  tell();
  const timer = setInterval(tell, 1000);
  $("photographs").setAttribute("aria-busy", "true");
  try {
    found = await ask("photograph", { name: mine.name, quality: $("quality").value }, mine);
    found.name = mine.name;
    show(mine);
    complain($("photographs"));
  } catch (error) {
    complain($("photographs"), error);
  } finally {
    clearInterval(timer);
    $("photo-status").textContent = "";
    $("photographs").removeAttribute("aria-busy");
  }
});

function blob(text, type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  addresses.push(address);
  return { address, length: bytes.length };
}

function show(mine) {
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  found.files = {
    shown: blob(found.shown, "image/png"),
    webp: blob(found.webp, "image/webp"),
    file: blob(found.file, "application/octet-stream"),
    original: found.original ? blob(found.original, "image/png") : { address: URL.createObjectURL(mine) },
  };
  addresses.push(found.files.original.address);
  $("seen-photo").hidden = false;
  for (const image of [$("before"), $("after")]) [image.width, image.height] = found.size;
  $("before").src = found.files.original.address;
  $("get-photo").href = found.files.file.address;
  $("get-photo").download = `${found.name}.vlae`;
  render();
}

function render() {
  const side = document.querySelector("[name=side]:checked").value;
  const { file: packed, webp } = found.files;
  $("after").src = found.files[side].address;
  $("after").alt = side === "webp" ? "The same photograph as WebP" : "What z alone tells of it";
  $("side-text").textContent = side === "webp" ? "WebP" : "z alone";
  const pixels = found.size[0] * found.size[1];
  const each = (bytes) => `<b>${number(bytes)}</b> bytes <span class="quiet">(${number((8 * bytes) / pixels, 3)} bits per pixel)</span>`;
  const larger = webp.length > packed.length ? ", the smallest that it makes" : "";
  $("sizes").innerHTML = `${number(found.size[0])} × ${number(found.size[1])} pixels. <span class="z">z alone:</span> ${each(packed.length)};
    <span class="x">WebP:</span> ${each(webp.length)}${larger}`;
}

function divide() {
  $("compare").style.setProperty("--at", `${$("divider").value}%`);
}
