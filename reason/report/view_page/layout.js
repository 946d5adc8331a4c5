// A tidy tree: depth to the right, siblings below each other, subtrees packed as closely as their outlines allow
// (Reingold & Tilford 1981). A subtree's outline is kept deepest level first, so that a parent is added by a push and
// merging costs no more than the shallower of two: the whole takes time linear in the number of nodes.

const DEAD_HEIGHT = 0.62; // of what was pruned, in rows
const COUSIN_GAP = 0.2;

// Sets `y` (in rows), `height` and `placed` of every node; says which were placed and how much room they take.
function layOut(run, { pruned }) {
  for (const node of run.nodes) node.placed = false;
  const shown = (node) =>
    node.folded ? [] : node.children.filter((child) => pruned || !child.notes.pruned || child.children.length);
  const order = [run.root];
  for (let i = 0; i < order.length; i += 1) order.push(...shown(order[i]));
  for (const node of [...order].reverse()) place(node, shown(node));
  let top = Infinity;
  let bottom = -Infinity;
  let columns = 0;
  for (const node of order) {
    // offsets become places
    node.y = node.up ? node.up.y + node.offset : 0;
    node.placed = true;
    top = Math.min(top, node.y - node.height / 2);
    bottom = Math.max(bottom, node.y + node.height / 2);
    columns = Math.max(columns, node.depth + 1);
  }
  const levels = Array.from({ length: columns }, () => []);
  for (const node of order) {
    node.y -= top;
    levels[node.depth].push(node);
  }
  for (const level of levels) level.sort((a, b) => a.y - b.y);
  return { nodes: order, levels, rows: bottom - top, columns };
}

// Puts a node before the middle of its children; `outline` holds { top, bottom, shift }, relative to the node.
function place(node, children) {
  node.height = node.dead ? DEAD_HEIGHT : 1;
  let outline = { top: [], bottom: [], shift: 0 };
  children.forEach((child, i) => {
    child.offset = i === 0 ? 0 : clearance(outline, child.outline);
    child.outline.shift += child.offset;
    outline = i === 0 ? child.outline : merged(outline, child.outline);
    child.outline = null;
  });
  const middle = children.length ? (children[0].offset + children[children.length - 1].offset) / 2 : 0;
  for (const child of children) child.offset -= middle;
  outline.shift -= middle;
  outline.top.push(-node.height / 2 - outline.shift);
  outline.bottom.push(node.height / 2 - outline.shift);
  node.outline = outline;
}

// How far down the second subtree must go so as to lie below the first.
function clearance(first, second) {
  const depth = Math.min(first.top.length, second.top.length);
  let needed = -Infinity;
  for (let level = 1; level <= depth; level += 1) {
    const above = first.bottom[first.bottom.length - level] + first.shift;
    const below = second.top[second.top.length - level] + second.shift;
    needed = Math.max(needed, above - below + (level > 1 ? COUSIN_GAP : 0));
  }
  return needed;
}

// The outline of both, the second below the first; the deeper one's arrays are reused.
function merged(first, second) {
  const deeper = first.top.length >= second.top.length ? first : second;
  const depth = Math.min(first.top.length, second.top.length);
  for (let level = 1; level <= depth; level += 1) {
    const top = first.top[first.top.length - level] + first.shift;
    const bottom = second.bottom[second.bottom.length - level] + second.shift;
    deeper.top[deeper.top.length - level] = top - deeper.shift;
    deeper.bottom[deeper.bottom.length - level] = bottom - deeper.shift;
  }
  return deeper;
}
