// The panel beside the tree: a node, the solutions, or the run.

class Panel {
  // `on` has open(node) and refresh().
  constructor(root, on) {
    this.body = root.querySelector("#panel-body");
    this.tabs = [...root.querySelectorAll('[role="tab"]')];
    this.on = on;
    this.tab = "node";
    this.whole = false; // the solution as far as the node, instead of the node's text
    this.tabs.forEach((tab, i) => {
      tab.addEventListener("click", () => this.turn(tab.dataset.tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = this.tabs[(i + step + this.tabs.length) % this.tabs.length];
        this.turn(next.dataset.tab);
        next.focus();
      });
    });
  }

  turn(name, node = this.node) {
    this.tab = name;
    for (const tab of this.tabs) {
      tab.setAttribute("aria-selected", tab.dataset.tab === name);
      tab.tabIndex = tab.dataset.tab === name ? 0 : -1;
    }
    this.body.setAttribute("aria-labelledby", `tab-${name}`);
    this.show(this.run, node);
    this.body.scrollTop = 0;
  }

  show(run, node) {
    [this.run, this.node] = [run, node];
    const state = this.signature();
    if (run === this.shown?.run && state === this.shown.state) return; // a replay goes by most nodes
    this.shown = { run, state };
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    fill(
      this.body,
      { node: () => this.nodePage(), solutions: () => this.solutionsPage(), run: () => this.runPage() }[this.tab](),
    );
    if (focused) [...this.body.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused)?.focus();
  }

  // Whatever a page shows that may change.
  signature() {
    const { run, node } = this;
    if (this.tab === "run") return `run ${run.at}`;
    if (this.tab === "solutions") return `solutions ${run.solutions().length} ${run.at === run.events.length}`;
    const below = node.children.map((child) => (run.seen(child) ? `${child.told} ${JSON.stringify(child.notes)}` : ""));
    return JSON.stringify([node.id, this.whole, run.seen(node), node.told, node.notes, [...node.known], below]);
  }

  link(node, text, attributes = {}) {
    return el("button", { class: "link", click: () => this.on.open(node), ...attributes }, text);
  }

  // -- a node

  nodePage() {
    const { node, run } = this;
    if (!run.seen(node))
      return [el("p", { class: "empty" }, `Node ${node.id} is not there yet at this point of the run.`)];
    const root = node.parent === null;
    return [
      el("h2", {}, root ? "Problem" : `Node ${node.id}`),
      el(
        "p",
        { class: "fate" },
        fate(node, run).map((word) => el("span", { class: `chip ${word.replace(/\W.*/, "")}` }, word)),
      ),
      root ? null : this.breadcrumbs(),
      node.answer === undefined || !node.told
        ? null
        : el("p", { class: "answer" }, el("span", { class: "label" }, "answer"), el("b", {}, node.answer)),
      this.textSection(),
      root || !node.logprobs ? null : this.logprobSection(),
      this.measures(),
      this.below(),
    ];
  }

  breadcrumbs() {
    const path = this.run.path(this.node.id);
    const shown = path.length > 9 ? [path[0], null, ...path.slice(-7)] : path;
    const crumbs = shown.map((each) => {
      if (!each) return el("li", {}, "\u2026");
      return el(
        "li",
        {},
        each === this.node
          ? el("span", { "aria-current": "true" }, each.id)
          : this.link(each, each.id, { "aria-label": `node ${each.id}` }),
      );
    });
    return el("nav", { "aria-label": "Path from the problem" }, el("ol", { class: "crumbs" }, crumbs));
  }

  textSection() {
    const { node, run } = this;
    const steps = this.whole ? run.steps(node.id) : [node];
    const choose = (whole) => () => {
      this.whole = whole;
      this.show(run, node);
    };
    const several = node.parent !== null && run.steps(node.id).length > 1;
    const choice = el(
      "div",
      { class: "choice", role: "group", "aria-label": "What to show" },
      el("button", { "data-key": "step", "aria-pressed": String(!this.whole), click: choose(false) }, "this step"),
      el("button", { "data-key": "whole", "aria-pressed": String(this.whole), click: choose(true) }, "so far"),
    );
    const body = el("div", { class: "text", tabindex: "0", role: "region", "aria-label": "Text" });
    if (this.whole && several) {
      for (const step of steps)
        body.append(
          el(
            "div",
            { class: "part" },
            this.link(step, step.id, { class: "link ref", "aria-label": `node ${step.id}` }),
            ...tokenText(step),
          ),
        );
    } else {
      body.append(...tokenText(node));
    }
    return el("section", {}, several ? choice : null, body);
  }

  logprobSection() {
    const { node, run } = this;
    const mean = -sum(node.logprobs) / 100 / node.logprobs.length;
    const worst = unlikely(node, 6);
    const row = ({ place, logprob, text }) => {
      const name =
        text === null
          ? el("td", { class: "muted" }, `token ${place + 1}`)
          : el("td", { class: "mono" }, JSON.stringify(text));
      return el("tr", {}, name, el("td", { class: "figure" }, share(Math.exp(logprob))));
    };
    const why = node.widths
      ? null
      : run.pieces
        ? "The tokens do not spell this text, so it is not coloured."
        : "The model\u2019s tokenizer is not on this machine, so tokens have no texts.";
    return el(
      "section",
      {},
      el("h3", {}, "Tokens"),
      el(
        "p",
        { class: "muted" },
        `${plural(node.tokens, "token")}, mean log-probability ${mean.toFixed(3)}. ${why ?? ""}`,
      ),
      node.widths ? scale() : sparkline(node.logprobs),
      node.drafted ? el("p", { class: "muted" }, draftedBy(node)) : null,
      worst.length
        ? el("table", { class: "plain" }, el("caption", {}, "Least likely"), el("tbody", {}, worst.map(row)))
        : null,
    );
  }

  measures() {
    const { node } = this;
    const rows = [];
    for (const [name, values] of Object.entries(node.scores ?? {})) {
      if (node.known.has(name)) rows.push([name, values.map((value) => number(value, 5)).join(", "), "verifier"]);
    }
    for (const [name, value] of Object.entries(node.notes))
      rows.push([name, typeof value === "number" ? number(value, 5) : JSON.stringify(value), "note"]);
    for (const [name, said] of Object.entries(node.feedback ?? {})) {
      if (said && node.known.has(name)) rows.push([name, said, "feedback"]);
    }
    if (!rows.length) return null;
    const row = ([name, value, kind]) =>
      el("tr", {}, el("td", {}, name), el("td", { class: "muted" }, kind), el("td", { class: kind === "feedback" ? "said" : "figure" }, value));
    return el(
      "section",
      {},
      el("h3", {}, "Scores and notes"),
      el("table", { class: "plain" }, el("tbody", {}, rows.map(row))),
    );
  }

  below() {
    const { node, run } = this;
    const seen = node.children.filter((child) => run.seen(child));
    if (!seen.length) return null;
    const most = 60;
    const item = (child) => {
      const head = headline(child, run);
      const states = [child.notes.pruned ? "gone" : "", run.answerPath.has(child.id) ? "answers" : ""].join(" ");
      return el(
        "li",
        { class: states },
        this.link(child, [el("b", {}, head.text), " ", flat(child.text).slice(0, 140)]),
      );
    };
    return el(
      "section",
      {},
      el("h3", {}, plural(seen.length, "continuation")),
      el("ul", { class: "nodes" }, seen.slice(0, most).map(item)),
      seen.length > most ? el("p", { class: "muted" }, `and ${seen.length - most} more, in the tree`) : null,
    );
  }

  // -- all solutions

  solutionsPage() {
    const { run } = this;
    const solutions = run.solutions();
    if (!solutions.length) return [el("p", { class: "empty" }, "No solution is finished at this point of the run.")];
    const groups = new Map();
    for (const node of solutions) {
      const name = node.answer_class ?? "none";
      groups.set(name, [...(groups.get(name) ?? []), node]);
    }
    const ranked = [...groups.values()].sort(
      (a, b) => (a[0].answer === undefined) - (b[0].answer === undefined) || b.length - a.length,
    );
    const line = (node) => {
      const score = typeof node.notes.score === "number" ? number(node.notes.score) : "";
      const length = sum(run.path(node.id).map((step) => step.tokens ?? 0));
      return el(
        "tr",
        {},
        el("td", {}, this.link(node, `node ${node.id}`)),
        el("td", { class: "muted" }, node.end === "length" ? "cut off" : ""),
        el("td", { class: "figure" }, score),
        el("td", { class: "figure muted" }, plural(length, "token")),
      );
    };
    const group = (nodes) => {
      const best = [...nodes].sort((a, b) => (b.notes.score ?? 0) - (a.notes.score ?? 0));
      const chosen = run.end && nodes[0].answer !== undefined && nodes.some((node) => node.id === run.end.node);
      const bar = el("span", { class: "bar" });
      bar.style.width = `${(100 * nodes.length) / solutions.length}%`;
      return el(
        "details",
        { open: ranked.length < 8 || chosen },
        el(
          "summary",
          {},
          el("b", { class: chosen ? "chosen" : "" }, nodes[0].answer ?? "no answer"),
          el("span", { class: "muted" }, ` ${nodes.length} of ${solutions.length}`),
          bar,
        ),
        el("table", { class: "plain" }, el("tbody", {}, best.map(line))),
      );
    };
    return [el("h2", {}, plural(solutions.length, "solution")), ranked.map(group)];
  }

  // -- the run

  runPage() {
    const { run } = this;
    const usage = run.usage[run.at - 1] ?? null;
    const { problem, strategy, fields, model, seed, budget, verifiers } = run.header;
    const facts = [
      ["problem", problem],
      ["model", model],
      ["strategy", strategy],
      ["seed", seed],
      ["prompt tokens", run.promptTokens],
    ];
    const lost = Object.entries(run.lost).map(([why, count]) => [`samples with end \u201c${why}\u201d`, count]);
    if (run.end)
      facts.push(
        ["answer", run.end.answer ?? "none"],
        ["confidence", share(run.end.confidence)],
        ["stopped by", run.end.stopped_by],
      );
    else facts.push(["state", "not done"]);
    const limits = Object.entries(budget ?? {}).filter(([, limit]) => limit !== null);
    const used = {
      policy_tokens: usage?.tokens,
      seconds: usage?.seconds,
      kv_tokens: usage?.peak,
      calls: run.nodes.filter((node) => node.parent !== null && run.seen(node)).length,
    };
    return [
      el("h2", {}, "Run"),
      table([...facts, ...lost]),
      el("h3", {}, `Settings of ${strategy}`),
      table(settings(fields ?? {})),
      Object.keys(verifiers ?? {}).length
        ? [
            el("h3", {}, "Verifiers"),
            table(Object.entries(verifiers).map(([name, value]) => [name, JSON.stringify(value)])),
          ]
        : null,
      limits.length
        ? [el("h3", {}, "Budget"), limits.map(([name, limit]) => meter(name.replace("_", " "), used[name] ?? 0, limit))]
        : null,
      usage ? [el("h3", {}, "Ledger at this point"), table(ledger(usage))] : null,
    ];
  }
}

function ledger(usage) {
  const rows = [
    ["generated tokens", number(usage.tokens)],
    ["unique KV tokens, peak", number(usage.peak)],
    ["unique KV tokens, mean", number(Math.round(usage.mean))],
    ["forwards", number(usage.forwards)],
  ];
  if (usage.drafted) rows.push(["drafted, accepted", `${number(usage.drafted)}, ${number(usage.accepted)}`]);
  if (usage.verifier) rows.push(["verifier tokens", number(usage.verifier)]);
  return [...rows, ["seconds", usage.seconds.toFixed(1)]];
}

// Nested settings with dotted names.
function settings(fields, before = "") {
  return Object.entries(fields).flatMap(([name, value]) =>
    value && typeof value === "object"
      ? settings(value, `${before}${name}.`)
      : [[before + name, value === null ? "\u2013" : String(value)]],
  );
}

function table(rows) {
  return el(
    "table",
    { class: "plain" },
    el(
      "tbody",
      {},
      rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(value)))),
    ),
  );
}

function meter(name, used, limit) {
  return el(
    "label",
    { class: "meter" },
    el("span", {}, `${name} ${number(used)} of ${number(limit)}`),
    el("meter", { min: 0, max: limit, value: Math.min(used, limit) }),
  );
}

// What the marks on tokens mean.
function scale() {
  const names = ["\u226590%", ...DOUBT.map((edge) => `<${100 * edge}%`)];
  return el(
    "p",
    { class: "scale", "aria-label": "Marks by probability" },
    names.map((name, i) => el("span", { class: `token doubt-${i}` }, name)),
  );
}
