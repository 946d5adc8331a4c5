// Puts the parts together: which run, which node, which event.

const index = JSON.parse(document.getElementById("index").textContent);
const find = (id) => document.getElementById(id);
const POLL_MILLISECONDS = 2000;
const page = { place: 0, run: null, tag: null, error: null };

const tree = new TreeView(find("tree"), {
  select: (node) => {
    panel.turn("node", node);
    announce(node);
    remember();
  },
  fold: (node) => announce(node),
});
const panel = new Panel(find("panel"), { open: (node) => open(node) });
const timeline = new Timeline(find("timeline"), { seek: (count) => seek(count) });

// Shows a node, also one that is folded away; the keyboard stays in the panel.
function open(node) {
  for (let up = node.up; up; up = up.up) up.folded = false;
  if (node.notes.pruned) {
    tree.pruned = true;
    find("pruned").checked = true;
  }
  tree.arrange();
  tree.select(node);
  find("panel-body").focus({ preventScroll: true });
}

function seek(count) {
  page.run.seek(count);
  timeline.update();
  tree.draw();
  panel.show(page.run, tree.selected);
}

// What a screen reader says of a node.
function announce(node) {
  const score = typeof node.notes.score === "number" ? `, score ${number(node.notes.score)}` : "";
  const below =
    page.run.seen(node) && node.children.length
      ? `, ${plural(node.children.length, "continuation")}${node.folded ? ", folded" : ""}`
      : "";
  find("announce").textContent =
    `${node.parent === null ? "Problem" : `Node ${node.id}`}, level ${node.depth}, ${fate(node, page.run).join(", ")}${score}${below}. ${flat(node.text).slice(0, 300)}`;
}

// -- runs

async function unpacked(place) {
  const packed = find(`run-${place}`).textContent;
  if (!packed) throw new Error(index.runs[place].error);
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// A run from the server; null if it is what it was.
async function fetched(place) {
  const headers = page.tag ? { "If-None-Match": page.tag } : {};
  const response = await fetch(`run/${encodeURIComponent(index.runs[place].id)}`, { headers, cache: "no-store" });
  if (response.status === 304) return null;
  const data = await response.json();
  if (data.error) throw new Error(data.error);
  page.tag = response.headers.get("ETag");
  return data;
}

async function show(place, { node = null, keep = false } = {}) {
  const again = keep ? page.run : null;
  if (!keep) page.tag = null;
  page.place = place;
  document.body.classList.remove("failed");
  try {
    const data = index.served ? await fetched(place) : await unpacked(place);
    if (page.place !== place || !data) return;
    page.run = new Run(data);
  } catch (error) {
    if (!keep) fail(index.runs[place], error);
    return;
  }
  const following = again && again.at === again.events.length;
  if (again && !following) page.run.seek(again.at);
  chooseShades();
  tree.show(page.run, { keep, selected: page.run.byId.get(node) });
  timeline.show(page.run);
  panel.show(page.run, tree.selected);
  if (!keep) announce(tree.selected);
  header();
  remember();
}

function fail(entry, error) {
  page.run = null;
  document.body.classList.add("failed");
  find("name").textContent = entry.id;
  find("failure").textContent = error.message;
}

// Looks again at a run that is not done.
function poll() {
  const waiting = index.served && page.run && !page.run.end && !timeline.playing && !document.hidden;
  Promise.resolve(waiting && show(page.place, { keep: true })).finally(() => setTimeout(poll, POLL_MILLISECONDS));
}

// -- around the tree

function header() {
  const { run } = page;
  const entry = index.runs[page.place];
  const usage = run.end?.usage ?? last(run.usage);
  document.title = `${entry.id} \u2013 reason view`;
  find("name").textContent = entry.id;
  const verdict =
    entry.correct === undefined
      ? null
      : el(
          "span",
          { class: entry.correct ? "good" : "bad" },
          entry.correct ? "right" : `wrong, reference ${entry.reference}`,
        );
  const answer = run.end ? (run.end.answer ?? "none") : "\u2026";
  fill(
    find("facts"),
    el(
      "span",
      { class: entry.correct === false ? "answer-chip off" : "answer-chip" },
      el("span", { class: "label" }, "answer "),
      el("b", {}, answer),
    ),
    verdict,
    fact("strategy", run.header.strategy),
    fact("model", run.header.model),
    fact("nodes", number(run.nodes.length - 1)),
    usage
      ? [fact("tokens", number(usage.tokens)), fact("KV peak", number(usage.peak)), fact("s", usage.seconds.toFixed(1))]
      : null,
    run.end && run.end.stopped_by !== "done"
      ? el("span", { class: "bad" }, `stopped by ${run.end.stopped_by.replace("_", " ")}`)
      : null,
  );
}

function fact(name, value) {
  return el("span", { class: "fact" }, el("b", {}, String(value)), ` ${name}`);
}

function chooseShades() {
  const select = find("shade");
  const before = tree.shade?.name;
  fill(
    select,
    page.run.shades.map((shade) => el("option", { value: shade.name }, shade.name)),
  );
  const { shades } = page.run;
  const named = (name) => shades.find((shade) => shade.name === name);
  const preferred = named(before) ?? named("score") ?? named("answer") ?? shades[0] ?? null;
  if (preferred) select.value = preferred.name;
  setShade(preferred);
}

function setShade(shade) {
  tree.shade = shade;
  legend(shade);
  tree.draw();
}

function legend(shade) {
  const key = find("legend");
  if (!shade) return fill(key);
  if (shade.kind === "class") {
    const items = shade.answers.slice(0, CLASSES.length).map(({ answer, count }, i) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = CLASSES[i];
      return el("span", {}, swatch, `${flat(answer).slice(0, 24)} \u00d7${count}`);
    });
    return fill(key, items);
  }
  const ramp = el("i", { class: "ramp" });
  ramp.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(scaled).join(", ")})`;
  return fill(key, el("span", {}, number(shade.low, 3)), ramp, el("span", {}, number(shade.high, 3)));
}

function listRuns() {
  const wanted = find("filter").value.toLowerCase();
  const rows = index.runs.map((entry, place) => {
    if (!`${entry.id} ${entry.answer ?? ""}`.toLowerCase().includes(wanted)) return null;
    const mark =
      entry.error || entry.failure ? "!" : entry.correct === undefined ? "" : entry.correct ? "\u2713" : "\u2717";
    const go = () => {
      find("runs").close();
      show(place);
    };
    return el(
      "tr",
      { class: place === page.place ? "current" : null },
      el(
        "td",
        {
          class: entry.correct ? "good" : "bad",
          title: entry.correct === undefined ? null : entry.correct ? "right" : "wrong",
        },
        mark,
      ),
      el("td", {}, el("button", { class: "link", click: go }, entry.id)),
      el("td", {}, entry.answer ?? ""),
      el("td", { class: "muted" }, entry.reference ?? ""),
      el("td", { class: "figure muted" }, entry.tokens ? number(entry.tokens) : ""),
    );
  });
  fill(find("list"), rows);
}

function step(by) {
  const place = page.place + by;
  if (place >= 0 && place < index.runs.length) show(place);
}

// -- the theme, the address, keys

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  readPalette();
  legend(tree.shade);
  tree.draw();
  timeline.draw();
}

function remember() {
  const parts = new URLSearchParams({ run: index.runs[page.place].id, node: tree.selected.id });
  history.replaceState(null, "", `#${parts}`);
}

function remembered() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const place = index.runs.findIndex((entry) => entry.id === parts.get("run"));
  const node = parts.has("node") && place >= 0 ? Number(parts.get("node")) : null;
  return [Math.max(0, place), { node }];
}

find("theme").addEventListener("click", () => theme(palette.dark ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
find("shade").addEventListener("change", (event) =>
  setShade(page.run.shades.find((shade) => shade.name === event.target.value)),
);
find("pruned").addEventListener("change", (event) => {
  tree.pruned = event.target.checked;
  tree.arrange(tree.selected);
});
find("closer").addEventListener("click", () => tree.zoom(1.4, ...tree.focusPoint(), true));
find("farther").addEventListener("click", () => tree.zoom(1 / 1.4, ...tree.focusPoint(), true));
find("fit").addEventListener("click", () => tree.fit());
find("help-open").addEventListener("click", () => find("help").showModal());
find("filter").addEventListener("input", listRuns);
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
}
for (const each of document.querySelectorAll(".several")) each.hidden = index.runs.length < 2;
find("runs-open").addEventListener("click", () => {
  listRuns();
  find("runs").showModal();
});
find("before").addEventListener("click", () => step(-1));
find("after").addEventListener("click", () => step(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  if (document.querySelector("dialog[open]") || (!page.run && !"[]?".includes(event.key))) return;
  const actions = {
    "?": () => find("help").showModal(),
    "[": () => step(-1),
    "]": () => step(1),
    ",": () => timeline.jump(page.run.at - 1),
    ".": () => timeline.jump(page.run.at + 1),
    " ": () => timeline.toggle(),
  };
  if (!(event.key in actions) || (event.key === " " && event.target.tagName === "BUTTON")) return;
  event.preventDefault();
  actions[event.key]();
});

window.addEventListener("hashchange", () => show(...remembered()));

window.reasonView = { tree, timeline, panel, page }; // for tests and for the curious
readPalette();
show(...remembered()).then(poll);
