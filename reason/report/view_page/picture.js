// The picture of a tree: edges, then a card for each node that has room for one and a dot for the others.

const CARD = { x: 92, y: 15, gap: 26, line: 15 }; // the least room for a card, what is left of its column, pixels a line
const LABEL = { x: 44, y: 11 }; // the least room for words beside a dot
const EDGES_A_STROKE = 64; // one long path is slower than many short ones
const MANY_MERGES = 25; // from here on they step back behind the tree

// Draws what is on the screen of a TreeView; returns how many nodes that was.
function paintTree(view) {
  const { context, width, height } = prepared(view.canvas);
  context.textBaseline = "middle";
  paintEdges(context, view, width, height);
  let count = 0;
  for (const node of view.visible()) {
    if (view.isCard(node)) paintCard(context, view, node);
    else paintDot(context, view, node);
    count += 1;
  }
  return count;
}

function paintEdges(context, view, width, height) {
  const { colours } = palette;
  const { run } = view;
  const kinds = { pruned: [], plain: [], begins: [], answer: [], merged: [], chosen: [] };
  for (const node of view.layout.nodes) {
    if (!node.up || !run.seen(node)) continue;
    const from = view.screen(node.up);
    const to = view.screen(node);
    if (to.x >= 0 && from.x <= width && Math.max(from.y, to.y) >= 0 && Math.min(from.y, to.y) <= height) {
      const kind = run.answerPath.has(node.id)
        ? "answer"
        : node.notes.pruned
          ? "pruned"
          : node.begins
            ? "begins"
            : "plain";
      kinds[kind].push([from.x + view.breadth(node.up), from.y, to.x, to.y]);
    }
    const target = run.mergedInto(node);
    if (target && target.placed && run.seen(target)) {
      const end = view.screen(target);
      const chosen = [node, target].includes(view.selected) || [node, target].includes(view.hovered);
      kinds[chosen ? "chosen" : "merged"].push([to.x + view.breadth(node), to.y, end.x + view.breadth(target), end.y]);
    }
  }
  const thin = view.view.sy < 6 ? 0.7 : 1.1;
  const dashed = (pattern, edges, colour, width, alpha, bowed) => {
    context.setLineDash(pattern);
    stroke(context, edges, colour, width, alpha, bowed);
    context.setLineDash([]);
  };
  dashed([5, 3], kinds.merged, colours.merge, 1.1, clamp(MANY_MERGES / kinds.merged.length, 0.12, 0.8), true);
  stroke(context, kinds.pruned, colours.edge, thin, 0.45);
  stroke(context, kinds.plain, colours.edge, thin, 1);
  dashed([2, 3], kinds.begins, colours.edge, 1.4, 1);
  stroke(context, kinds.answer, colours.answer, 2.2, 1);
  dashed([5, 3], kinds.chosen, colours.merge, 1.8, 1, true);
}

// Curves from (x1, y1) to (x2, y2); bowed ones go out and come back on the right.
function stroke(context, edges, colour, width, alpha, bowed = false) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.globalAlpha = alpha;
  for (let start = 0; start < edges.length; start += EDGES_A_STROKE) {
    context.beginPath();
    for (const [x1, y1, x2, y2] of edges.slice(start, start + EDGES_A_STROKE)) {
      context.moveTo(x1, y1);
      const half = bowed ? clamp(Math.abs(y2 - y1) * 0.25, 12, 60) : (x2 - x1) / 2;
      context.bezierCurveTo(x1 + half, y1, bowed ? x2 + half : x2 - half, y2, x2, y2);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

function paintDot(context, view, node) {
  const { colours } = palette;
  const { x, y } = view.screen(node);
  const radius = view.radius(node);
  const marked = node === view.selected || node === view.hovered;
  const answers = view.run.answerPath.has(node.id);
  context.globalAlpha = node.notes.pruned && !marked ? 0.4 : 1;
  context.fillStyle = colourOf(view.shade, node) ?? colours.faint;
  context.beginPath();
  if (view.run.finished(node)) context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  else if (node.aside) diamond(context, x, y, radius * 1.25);
  else context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  if (answers || (radius > 3 && !node.notes.pruned)) {
    context.strokeStyle = answers ? colours.answer : colours.page;
    context.lineWidth = answers ? 2 : 1;
    context.stroke();
  }
  context.globalAlpha = 1;
  if (node.folded) paintFold(context, node, x + radius + 4, y);
  else if (!node.children.length && !node.notes.pruned) paintLabel(context, view, node, x + radius + 5, y);
  if (marked) {
    context.strokeStyle = colours.accent;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, radius + 4, 0, 2 * Math.PI);
    context.stroke();
  }
}

// What a leaf came to, where nothing stands to its right.
function paintLabel(context, view, node, x, y) {
  if (view.view.sy < LABEL.y || view.view.sx < LABEL.x || !view.run.finished(node)) return;
  const { text, colour } = headline(node, view.run);
  context.font = `10.5px ${FONT}`;
  context.fillStyle = palette.colours[colour];
  context.fillText(fitted(context, text, view.view.sx - 16), x, y);
}

function paintCard(context, view, node) {
  const { colours } = palette;
  const { x, y } = view.screen(node);
  const height = Math.max(CARD.y - 1, node.height * view.view.sy - (view.view.sy > 24 ? 5 : 2));
  const width = view.breadth(node);
  const top = y - height / 2;
  const marked = node === view.selected;
  const answers = view.run.answerPath.has(node.id);
  context.globalAlpha = node.notes.pruned && !marked ? 0.55 : 1;
  box(context, x, top, width, height, 5);
  context.fillStyle = colours.card;
  context.fill();
  context.strokeStyle = marked
    ? colours.accent
    : answers
      ? colours.answer
      : node === view.hovered
        ? colours.soft
        : colours.line;
  context.lineWidth = marked ? 2 : answers ? 1.6 : 1;
  context.stroke();
  context.fillStyle = colourOf(view.shade, node) ?? colours.faint;
  box(context, x + 3, top + 3, 4, height - 6, 2);
  context.fill();
  paintWords(context, view.run, node, { x: x + 13, top, width: width - 20, height });
  context.globalAlpha = 1;
  if (node.folded) paintFold(context, node, x + width + 3, y);
}

// A headline, and as much of the text as there is room for; kept with the node until the room or the state changes.
function paintWords(context, run, node, { x, top, width, height }) {
  const { colours } = palette;
  const lines = Math.max(1, Math.floor((height - 6) / CARD.line));
  const key = `${Math.round(width)} ${lines} ${run.at}`;
  const [strong, plain] = [`600 11.5px ${FONT}`, `11.5px ${FONT}`];
  if (node.words?.key !== key) node.words = { key, ...words(context, run, node, width, lines, strong, plain) };
  const { first, taken, colour, number, inline, below } = node.words;
  const middle = lines === 1 ? top + height / 2 : top + 4 + CARD.line / 2;
  context.font = strong;
  context.fillStyle = colours[colour];
  context.fillText(first, x, middle);
  context.font = plain;
  context.fillStyle = colours.faint;
  if (number) context.fillText(number, x + width - context.measureText(number).width, middle);
  context.fillStyle = colours.soft;
  context.fillText(inline, x + taken, middle);
  context.fillStyle = colours.text;
  below.forEach((text, i) => context.fillText(text, x, middle + (i + 1) * CARD.line));
}

function words(context, run, node, width, lines, strong, plain) {
  const head = headline(node, run);
  const text = flat(node.text);
  context.font = strong;
  const first = fitted(context, head.text, width);
  const taken = context.measureText(first).width + (first ? 7 : 0);
  context.font = plain;
  const name = `#${node.id}`;
  const number = node.parent !== null && lines > 1 && width - taken > context.measureText(name).width ? name : "";
  const inline = lines === 1 && width - taken > 30 ? fitted(context, text, width - taken) : "";
  return {
    first,
    taken,
    colour: head.colour,
    number,
    inline,
    below: lines > 1 ? wrapped(context, text, width, lines - 1) : [],
  };
}

// What a node says first: its answer, its score, and what became of it.
function headline(node, run) {
  if (node.parent === null) return { text: "problem", colour: "soft" };
  const parts = [];
  let colour = "text";
  if (run.finished(node)) {
    parts.push(node.answer === undefined ? "no answer" : `= ${flat(node.answer)}`);
    if (node.answer !== undefined && run.end && node.answer === run.end.answer) colour = "answer";
  }
  if (typeof node.notes.score === "number") parts.push(number(node.notes.score));
  if (node.notes.pruned) parts.push("pruned");
  const target = run.mergedInto(node);
  if (target) parts.push(`\u2192 #${target.id}`);
  if (node.aside) parts.push("aside");
  return { text: parts.join("  ") || `#${node.id}`, colour };
}

function paintFold(context, node, x, y) {
  context.font = `600 11px ${FONT}`;
  context.fillStyle = palette.colours.accent;
  context.fillText(`+${node.size}`, x, y);
}

function box(context, x, y, width, height, radius) {
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
}

function diamond(context, x, y, radius) {
  context.moveTo(x, y - radius);
  context.lineTo(x + radius, y);
  context.lineTo(x, y + radius);
  context.lineTo(x - radius, y);
  context.closePath();
}
