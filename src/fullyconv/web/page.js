"use strict";
const of = (id) => document.getElementById(id);
const drop = of("drop"), file = of("file"), model = of("model"), state = of("state");
const TRIES = 5;  // of a busy server
const cards = [], queue = [];
let models = [], working = null;

function say(where, text, wrong = false) {
  where.textContent = text;
  where.classList.toggle("wrong", wrong);
}

function named(one) {  // a class with its color; what is not drawn has none
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  if (one.color) swatch.style.background = one.color;
  return [swatch, one.name];
}

function about() {
  const chosen = models.find((one) => one.name === model.value);
  if (!chosen) return;
  of("about").textContent = `${chosen.about}. License of the weights: ${chosen.license}`;
  of("sample").hidden = !chosen.sample;
  of("classes").replaceChildren(...chosen.classes.map((one) => {
    const item = document.createElement("li");
    item.append(...named(one));
    return item;
  }));
}

function progress() {
  const ended = cards.filter((card) => !queue.includes(card) && card !== working?.card);
  const failed = ended.filter((card) => !card.part(".again").hidden).length;
  const done = `${ended.length - failed} of ${cards.length} images done`;
  say(state, cards.length > 1 ? done + (failed ? `, ${failed} failed` : "") : "");
}

function add(images) {
  for (const image of images) {
    const root = of("card").content.firstElementChild.cloneNode(true), card = { image, root };
    const part = (name) => root.querySelector(name);
    card.part = part;
    part("h2").textContent = image.name || "image";
    part(".remove").setAttribute("aria-label", `Remove ${image.name || "image"}`);
    part(".remove").addEventListener("click", () => remove(card));
    part(".again").addEventListener("click", () => ask(card));
    part("input").addEventListener("input", (event) => { part(".overlay").style.opacity = event.target.value / 100; });
    part(".image").addEventListener("error", () => root.classList.add("bare"));  // a TIFF: the overlay stands alone
    part(".image").src = URL.createObjectURL(image);
    of("cards").append(root);
    cards.push(card);
    ask(card);
  }
}

function remove(card) {
  for (const list of [cards, queue]) if (list.includes(card)) list.splice(list.indexOf(card), 1);
  if (working?.card === card) working.abort();
  URL.revokeObjectURL(card.part(".image").src);
  card.root.remove();
  progress();
}

function ask(card) {
  card.part(".again").hidden = true;
  card.part("progress").hidden = false;
  say(card.part(".said"), "Waiting for its turn");
  if (!queue.includes(card)) queue.push(card);
  progress();
  if (!working) work();
}

async function work() {  // one image after another, as the server segments them
  while (queue.length) {
    const card = queue.shift(), control = new AbortController(), name = model.value;
    working = { card, abort: () => control.abort() };
    progress();
    try {
      const begun = performance.now(), found = await segment(card, name, control.signal);
      show(card, found);
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      say(card.part(".said"), `${name}: ${found.width} x ${found.height} pixels, ${seconds} s`);
    } catch (error) {
      if (!control.signal.aborted) {
        say(card.part(".said"), error.message, true);
        card.part(".again").hidden = false;
      }
    }
    if (!queue.includes(card)) card.part("progress").hidden = true;
    working = null;
    progress();
  }
}

async function segment(card, name, signal) {
  for (let tried = 1; ; tried++) {
    say(card.part(".said"), "Segmenting");
    const sent = { method: "POST", body: card.image, signal };
    const answer = await fetch(`segment?model=${encodeURIComponent(name)}`, sent).catch(() => {
      throw new Error("The server does not answer. Is it still running?");
    });
    const found = await answer.json().catch(() => ({ error: `The server failed (status ${answer.status}).` }));
    if (answer.ok) return found;
    if (answer.status !== 503 || tried === TRIES) throw new Error(found.error);
    for (let left = Number(answer.headers.get("Retry-After") || 3); left > 0 && !signal.aborted; left--) {
      say(card.part(".said"), `The server is busy; trying again in ${left} s`);
      await new Promise((after) => setTimeout(after, 1000));
    }
  }
}

function show(card, found) {
  const stem = (card.image.name || "image").replace(/\.[^.]*$/, "");
  card.part(".overlay").src = `data:image/jpeg;base64,${found.overlay}`;
  for (const [link, kind, data, name] of [
    [".mask", "png", found.mask, `${stem}.mask.png`], [".drawn", "jpeg", found.overlay, `${stem}.overlay.jpg`],
  ]) {
    card.part(link).href = `data:image/${kind};base64,${data}`;
    card.part(link).download = name;
  }
  card.part("tbody").replaceChildren(...found.classes.map((one) => {
    const row = document.createElement("tr"), name = document.createElement("td"), share = document.createElement("td");
    name.append(...named(one));
    share.textContent = one.share < 0.001 ? "< 0.1 %" : `${(100 * one.share).toFixed(1)} %`;
    row.append(name, share);
    return row;
  }));
  card.part(".result").hidden = false;
}

of("pick").addEventListener("click", () => file.click());
of("sample").addEventListener("click", async () => {
  const answer = await fetch(`sample?model=${encodeURIComponent(model.value)}`).catch(() => null);
  if (answer?.ok) add([new File([await answer.blob()], "sample.png")]);
  else say(state, "The server does not answer.", true);
});
file.addEventListener("change", () => { add(file.files); file.value = ""; });
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
model.addEventListener("change", () => {
  about();
  working?.abort();
  cards.forEach(ask);
});

fetch("models").then((answer) => answer.json()).then((found) => {
  models = found;
  model.replaceChildren(...models.map((one) => new Option(one.name, one.name)));
  about();
}).catch(() => say(state, "The server does not answer.", true));
