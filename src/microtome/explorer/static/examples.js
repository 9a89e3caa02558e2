"use strict";
// Everything is put on the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SHOWN = 400; // components in the list at once
const components = data.components.map(([site, number, density, importance, lists, partners, examples, mean]) => ({
  site, number, density, importance, lists, partners, examples, mean, name: `${site}:${number}`,
}));
const byName = new Map(components.map((one) => [one.name, one]));
const place = new Map(data.sites.map((site, i) => [site, i]));
const at = (id) => document.getElementById(id);
let current = null;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "level") node.style.setProperty("--level", value);
    else if (key.startsWith("aria-")) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

function visible(word) {
  if (word === "") return "∅";
  return word.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");
}

function inline(word) {
  return visible(word).replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

function strongest(values) {
  const sizes = values.map(Math.abs);
  return sizes.indexOf(Math.max(...sizes));
}

const percent = (value) => (100 * value < 0.01 && value > 0 ? "<0.01" : (100 * value).toPrecision(3)) + " %";

function found() {
  const site = at("site").value, words = at("search").value.trim().toLowerCase(), order = at("order").value;
  const matches = (one) => {
    if (site && one.site !== site) return false;
    if (!words) return true;
    if (one.name.toLowerCase().includes(words) || String(one.number) === words) return true;
    return Object.values(one.lists).some((list) =>
      list.some(([word]) => data.words[word].trim().toLowerCase() === words));
  };
  const key = {
    importance: (a, b) => b.importance - a.importance,
    density: (a, b) => b.density - a.density,
    name: (a, b) => place.get(a.site) - place.get(b.site) || a.number - b.number,
  }[order];
  return components.filter(matches).sort(key);
}

function list() {
  const all = found(), order = at("order").value;
  at("count").textContent = all.length > SHOWN
    ? `first ${SHOWN} of ${all.length}; search for others` : `${all.length} of ${components.length}`;
  at("list").replaceChildren(...all.slice(0, SHOWN).map((one) => make("li", {}, make("button", {
    type: "button", onclick: () => show(one.name), "aria-current": String(one === current),
  }, make("span", { className: "name", textContent: one.name }), make("span", {
    className: "value", textContent: order === "density" ? percent(one.density) : one.importance.toPrecision(2),
  })))));
  return all;
}

function chips(title, entries, probability) {
  const items = entries.map(([word, value]) => make("li", {},
    make("span", { className: "word", textContent: inline(data.words[word]) }), " ",
    make("small", { textContent: probability ? value.toPrecision(2) : "×" + value.toPrecision(3) })));
  if (!items.length) items.push(make("small", { textContent: "none" }));
  return make("div", {}, make("h3", { textContent: title }), make("ul", { className: "chips" }, ...items));
}

function text([stratum, activation, row, position, focus, words, levels]) {
  const line = make("div", { className: "text" }, ...words.map((word, i) => make("span", {
    className: i === focus ? "token focus" : "token", level: levels[i] / 100,
    title: `causal importance ${(levels[i] / 100).toFixed(2)}`, textContent: visible(data.words[word]),
  })));
  const told = `${(levels[focus] / 100).toFixed(2)} · activation ${activation}`;
  return make("div", { className: "example" }, make("div", { className: "where" },
    told, make("br"), `input ${row}, place ${position}`), line);
}

function drawing(values, caption) {
  const side = Math.sqrt(values.length);
  const square = Number.isInteger(side) && side >= 4;
  const width = square ? side : values.length, height = square ? side : 1;
  const cell = square ? Math.max(2, Math.floor(96 / side)) : Math.max(2, Math.min(14, Math.floor(420 / width)));
  const canvas = make("canvas", { width: width * cell, height: Math.max(height * cell, square ? 0 : 16) });
  const pen = canvas.getContext("2d"), top = Math.max(...values.map(Math.abs)) || 1;
  values.forEach((value, i) => {
    const strength = Math.abs(value) / top;
    pen.fillStyle = value < 0 ? `rgba(0,114,178,${strength})` : `rgba(213,94,0,${strength})`;
    pen.fillRect((i % width) * cell, Math.floor(i / width) * cell, cell, square ? cell : 16);
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption);
  return make("figure", {}, canvas, make("figcaption", { textContent: caption }));
}

function show(name) {
  const one = byName.get(name);
  if (!one) return;
  current = one;
  const parts = [make("h2", { textContent: one.name }), make("p", {
    className: "facts",
    textContent: `fires at ${percent(one.density)} of places · mean importance ${one.importance.toPrecision(3)}`,
  })];
  const lists = Object.entries(one.lists);
  if (lists.length) {
    parts.push(make("div", { className: "lists" }, ...lists.map(([key, entries]) =>
      chips(data.lists[key], entries, !key.endsWith("lift")))));
  }
  if (one.partners.length) {
    parts.push(make("h3", { textContent: "Fires with (overlap)" }), make("ul", { className: "chips" },
      ...one.partners.map(([other, overlap]) => make("li", {}, byName.has(other)
        ? make("button", { type: "button", textContent: other, onclick: () => show(other) })
        : make("span", { textContent: other }), " ", make("small", { textContent: overlap.toFixed(2) })))));
  }
  if (one.mean.length) {
    parts.push(make("h3", { textContent: "Mean input, weighed by causal importance" }), drawing(one.mean, `largest: ${strongest(one.mean)}`));
  }
  let stratum = null, inputs = null;
  for (const example of one.examples) {
    const words = example.length === 7;
    if (example[0] !== stratum) {
      stratum = example[0];
      inputs = make("div", { className: words ? "" : "inputs" });
      parts.push(make("h3", {}, `Causal importance above ${stratum} `, ...(words && parts.length < 9
        ? [make("span", { className: "scale", title: "background: causal importance, 0 to 1" })] : [])), inputs);
    }
    inputs.append(words ? text(example)
      : drawing(example[5], `${(example[4] / 100).toFixed(2)} · activation ${example[1]}`
        + ` · largest: ${strongest(example[5])}`));
  }
  at("detail").replaceChildren(...parts);
  history.replaceState(null, "", "#" + encodeURIComponent(one.name));
  list();
}

at("site").append(make("option", { value: "", textContent: "all" }),
  ...data.sites.map((site) => make("option", { value: site, textContent: site })));
for (const id of ["site", "search", "order"]) at(id).addEventListener("input", list);
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || !["j", "k"].includes(event.key)) return;
  const all = found(), next = all[all.indexOf(current) + (event.key === "j" ? 1 : -1)];
  if (next) show(next.name);
});
const first = list()[0];
const asked = decodeURIComponent(location.hash.slice(1));
if (byName.has(asked)) show(asked);
else if (first) show(first.name);
