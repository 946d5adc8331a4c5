// A run as reason/report/view.py wrote it, and what was known of it after some of its events.

const USAGE = ["tokens", "peak", "mean", "forwards", "drafted", "accepted", "verifier", "seconds"];
const FINISHED = new Set(["eos", "stop", "length"]);

class Run {
  constructor(data) {
    this.header = data.header;
    this.promptTokens = data.prompt_tokens;
    this.pieces = data.pieces; // whether the tokenizer was at hand
    this.lost = data.lost;
    this.end = data.end && { ...data.end, usage: named(data.end.usage) };
    this.nodes = data.nodes.map((node) => ({ ...node, children: [], depth: 0, arrived: Infinity }));
    this.byId = new Map(this.nodes.map((node) => [node.id, node]));
    this.root = this.nodes[0];
    for (const node of this.nodes.slice(1)) {
      node.up = this.byId.get(node.parent);
      node.up.children.push(node);
      node.depth = node.up.depth + 1;
    }
    for (const node of this.nodes) node.children.sort((a, b) => a.id - b.id);
    this.events = data.events;
    this.usage = []; // after each event
    let known = named([]);
    this.events.forEach((event, place) => {
      for (const node of event.nodes.map((id) => this.byId.get(id)))
        if (node && node.arrived === Infinity) node.arrived = place; // a failed sample's first event is what was told
      if (event.usage) known = named(event.usage);
      this.usage.push(known);
    });
    this.root.arrived = -1;
    this.answerPath = new Set(this.end && this.end.node !== null ? this.path(this.end.node).map((n) => n.id) : []);
    this.at = null;
    this.seek(this.events.length); // the layout and the colours are those of the whole run
    for (const node of this.nodes) {
      node.dead = Boolean(node.notes.pruned) && node.children.length === 0;
      node.size = node.children.length; // of the subtree below, filled from the leaves
    }
    for (const node of [...this.nodes].reverse()) if (node.up) node.up.size += node.size;
    this.shades = shadesOf(this);
  }

  // Moves to the state after `count` events.
  seek(count) {
    if (this.at === null || count < this.at) {
      for (const node of this.nodes) Object.assign(node, { notes: {}, known: new Set(), told: node.parent === null });
      this.at = 0;
    }
    for (; this.at < count; this.at += 1) {
      const event = this.events[this.at];
      if (event.kind === "measure") for (const id of event.nodes) this.byId.get(id)?.known.add(event.name);
      if (event.kind === "tell") for (const id of event.nodes) if (this.byId.has(id)) this.byId.get(id).told = true;
      for (const [id, notes] of Object.entries(event.notes ?? {}))
        Object.assign(this.byId.get(Number(id))?.notes ?? {}, notes);
    }
  }

  seen(node) {
    return node.arrived < this.at;
  }

  // Written to its end: what ended it is known for sure once the strategy was told.
  finished(node) {
    return node.told && FINISHED.has(node.end) && !node.aside;
  }

  mergedInto(node) {
    return Number.isInteger(node.notes.merged_into) ? this.byId.get(node.notes.merged_into) : undefined;
  }

  path(id) {
    const path = [];
    for (let node = this.byId.get(id); node; node = node.up) path.push(node);
    return path.reverse();
  }

  // The nodes whose texts make up the solution as far as a node.
  steps(id) {
    const path = this.path(id).slice(1);
    return path.slice(
      Math.max(
        0,
        path.findLastIndex((node) => node.begins),
      ),
    );
  }

  solutions() {
    return this.nodes.filter((node) => node.parent !== null && this.seen(node) && this.finished(node));
  }
}

// What nodes can be coloured by: { name, kind: "number" | "class", of(node), low, high }.
function shadesOf(run) {
  const made = [];
  const add = (name, of) => {
    const values = run.nodes
      .map(of)
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    if (!values.length) return;
    const at = (share) => values[Math.round(share * (values.length - 1))];
    made.push({ name, kind: "number", of, low: at(0.02), high: at(0.98) });
  };
  const notes = new Set(run.nodes.flatMap((node) => Object.keys(node.notes)));
  const verifiers = new Set(run.nodes.flatMap((node) => Object.keys(node.scores ?? {})));
  const note = (name) => (node) => (typeof node.notes[name] === "number" ? node.notes[name] : NaN);
  if (notes.delete("score")) add("score", note("score"));
  for (const name of verifiers) add(name, (node) => (node.known.has(name) ? last(node.scores?.[name]) : NaN));
  notes.delete("merged_into");
  for (const name of [...notes].sort()) add(name, note(name));
  add("mean log-probability", (node) => (node.logprobs ? -sum(node.logprobs) / 100 / node.logprobs.length : NaN));
  add("tokens", (node) => (node.parent === null ? NaN : node.tokens));
  if (run.nodes.some((node) => node.answer_class !== undefined)) made.push(answerShade(run));
  return made;
}

function answerShade(run) {
  const votes = new Map();
  for (const node of run.nodes) {
    if (node.answer_class === undefined) continue;
    const entry = votes.get(node.answer_class) ?? { answer: node.answer, count: 0 };
    entry.count += 1;
    votes.set(node.answer_class, entry);
  }
  const ranked = [...votes.entries()].sort((a, b) => b[1].count - a[1].count || a[0] - b[0]);
  const rank = new Map(ranked.map(([name], place) => [name, place]));
  const of = (node) => (node.told && rank.has(node.answer_class) ? rank.get(node.answer_class) : NaN);
  return { name: "answer", kind: "class", of, answers: ranked.map(([, entry]) => entry) };
}

function named(values) {
  return Object.fromEntries(USAGE.map((name, place) => [name, values[place] ?? 0]));
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function last(values) {
  return values?.[values.length - 1];
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function number(value, digits = 4) {
  if (!Number.isFinite(value)) return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(digits)));
}
