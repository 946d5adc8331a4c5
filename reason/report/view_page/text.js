// Elements and texts. Whatever a model wrote is set as text, never as markup.

// A new element: attributes (functions are listeners), then children (nodes or text; null is left out).
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

const DOUBT = [0.9, 0.6, 0.3, 0.1]; // less likely tokens are marked more strongly

function doubt(probability) {
  return DOUBT.filter((edge) => probability < edge).length;
}

// Who drafted a node's tokens, by place.
function drafters(node) {
  const names = new Map();
  for (const [name, places] of Object.entries(node.drafted ?? {})) for (const place of places) names.set(place, name);
  return names;
}

// A node's text, each token marked by how unlikely it was, where that is known, and underlined where it was drafted.
function tokenText(node) {
  if (!node.widths || node.widths.length !== node.logprobs?.length) return [document.createTextNode(node.text)];
  const spans = [];
  const names = drafters(node);
  let at = 0;
  node.widths.forEach((width, i) => {
    const logprob = -node.logprobs[i] / 100;
    const by = names.has(i) ? `, drafted by ${names.get(i)}` : "";
    const title = `token ${i + 1} of ${node.widths.length}: p ${share(Math.exp(logprob))}, log p ${logprob.toFixed(2)}${by}`;
    const drafted = by ? " drafted" : "";
    if (width)
      spans.push(
        el(
          "span",
          { class: `token doubt-${doubt(Math.exp(logprob))}${drafted}`, title },
          node.text.slice(at, at + width),
        ),
      );
    else
      spans.push(
        el("span", { class: "token silent", title: `${title}; it has no text of its own`, "aria-hidden": "true" }),
      );
    at += width;
  });
  if (at < node.text.length) spans.push(document.createTextNode(node.text.slice(at)));
  return spans;
}

// The least likely tokens of a node, worst first: { place, logprob, text }.
function unlikely(node, count) {
  let at = 0;
  const tokens = (node.logprobs ?? []).map((value, place) => {
    const width = node.widths?.[place];
    const text = width ? node.text.slice(at, at + width) : null;
    at += width ?? 0;
    return { place, logprob: -value / 100, text };
  });
  return tokens
    .sort((a, b) => a.logprob - b.logprob)
    .slice(0, count)
    .filter((token) => token.logprob < Math.log(DOUBT[0]));
}

// How many of a node's tokens were drafted, and by whom.
function draftedBy(node) {
  const counts = Object.entries(node.drafted).map(([name, places]) => [name, places.length]);
  const all = counts.reduce((total, [, count]) => total + count, 0);
  const names = counts.sort((a, b) => b[1] - a[1]).map(([name, count]) => `${name} ${number(count)}`);
  return `${number(all)} of ${plural(node.tokens, "token")} drafted (underlined): ${names.join(", ")}`;
}

// Log-probabilities along a node's tokens, as a line.
function sparkline(values) {
  const [width, height] = [320, 44];
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const deepest = values.reduce((most, value) => Math.max(most, value), 1);
  const points = values.map(
    (value, i) => `${((i + 0.5) / values.length) * width},${3 + (value / deepest) * (height - 6)}`,
  );
  const label = `log-probabilities of ${values.length} tokens, the lowest ${(-deepest / 100).toFixed(2)}`;
  const image = svg("svg", {
    class: "spark",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
    preserveAspectRatio: "none",
  });
  image.append(svg("polyline", { points: points.join(" ") }));
  return image;
}

function share(value) {
  return value > 0.995 && value < 1 ? ">99%" : value < 0.01 ? "<1%" : `${Math.round(100 * value)}%`;
}

function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

// What became of a node, in words.
function fate(node, run) {
  if (node.parent === null) return ["given"];
  const words = [];
  if (!node.told) words.push("arrived, not told yet");
  else if (node.end === "step") words.push("step");
  else if (node.end === "length") words.push("cut off at the token limit");
  else if (node.end === "error") words.push("failed");
  else words.push(node.aside ? "aside" : "finished");
  if (node.aside && node.end === "step") words.push("aside");
  if (node.begins) words.push("begins a text of its own");
  if (node.notes.kept) words.push(typeof node.notes.kept === "number" ? `kept \u00d7${node.notes.kept}` : "kept");
  if (node.notes.pruned) words.push("pruned");
  const target = run.mergedInto(node);
  if (target) words.push(`merged into ${target.id}`);
  if (run.end?.node === node.id) words.push("answer");
  else if (run.answerPath.has(node.id)) words.push("answer's path");
  return words;
}
