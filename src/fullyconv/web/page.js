"use strict";
const of = (id) => document.getElementById(id);
const drop = of("drop"), file = of("file"), model = of("model"), state = of("state");
let models = [], last = null, asked = 0;

function say(text, wrong = false) {
  state.textContent = text;
  state.classList.toggle("wrong", wrong);
}

function about() {
  const chosen = models.find((one) => one.name === model.value);
  of("about").textContent = chosen ? `${chosen.about}. License of the weights: ${chosen.license}` : "";
}

function swatch(color) {  // an SVG attribute: inline styles are not allowed here
  const name = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(name, "svg"), box = document.createElementNS(name, "rect");
  for (const [key, value] of Object.entries({ width: 14, height: 14, "aria-hidden": "true" })) svg.setAttribute(key, value);
  for (const [key, value] of Object.entries({ width: 14, height: 14, rx: 3, fill: color })) box.setAttribute(key, value);
  svg.append(box);
  return svg;
}

function show(image, found) {
  of("image").src = URL.createObjectURL(image);
  of("overlay").src = `data:image/jpeg;base64,${found.overlay}`;
  of("save").href = `data:image/png;base64,${found.mask}`;
  of("save").download = `${(image.name || "image").replace(/\.[^.]*$/, "")}.mask.png`;
  of("shares").replaceChildren(...found.classes.map((one) => {
    const row = document.createElement("tr"), name = document.createElement("td"), share = document.createElement("td");
    name.append(swatch(one.color), one.name);
    share.textContent = one.share < 0.001 ? "< 0.1 %" : `${(100 * one.share).toFixed(1)} %`;
    row.append(name, share);
    return row;
  }));
  of("result").hidden = false;
}

async function segment(image) {
  if (!image) return;
  last = image;
  const mine = ++asked;
  say(`Segmenting ${image.name || "the image"} ...`);
  const begun = performance.now();
  try {
    const answer = await fetch(`segment?model=${encodeURIComponent(model.value)}`, { method: "POST", body: image });
    const found = await answer.json();
    if (mine !== asked) return;  // a later image was dropped meanwhile
    if (!answer.ok) throw new Error(found.error);
    show(image, found);
    say(`${found.width} x ${found.height} pixels, ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  } catch (error) {
    if (mine === asked) say(error.message || "The server does not answer.", true);
  }
}

drop.addEventListener("click", () => file.click());
drop.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); file.click(); } });
file.addEventListener("change", () => segment(file.files[0]));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); segment(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => segment(event.clipboardData.files[0]));
model.addEventListener("change", () => { about(); if (last) segment(last); });
of("strength").addEventListener("input", (event) => { of("overlay").style.opacity = event.target.value / 100; });

fetch("models").then((answer) => answer.json()).then((found) => {
  models = found;
  model.replaceChildren(...models.map((one) => new Option(one.name, one.name)));
  about();
}).catch(() => say("The server does not answer.", true));
